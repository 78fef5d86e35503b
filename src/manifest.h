// SPDX-License-Identifier: Apache-2.0
// What a model file says of itself: the JSON manifest in its metadata, and the tensors that follow
// from it. docs/model_format.md is the same in prose.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/safetensors.h"

namespace rtfm {

struct SamplerRow {  // x <- a·x + b·f(x, t) + c·noise
  float t, a, b, c;
};

struct RetrievalDefaults {
  int context, sinks, recent;  // sinks + recent <= context
  double near, far;            // metres
  double commit_below;         // a generated frame with less support is kept
};

struct Manifest {
  std::string name, licence;
  std::string source_file, source_sha256;  // the checkpoint it was made from

  int image_height, image_width;  // pixels, multiples of patch
  int patch;
  int width, layers, heads, head_dim, mlp;  // heads * head_dim == width

  double fx, fy;       // default intrinsics, in units of image width and height
  double world_scale;  // model units per metre

  int steps;                                        // the default; always a key of samplers
  std::map<int, std::vector<SamplerRow>> samplers;  // by number of steps

  RetrievalDefaults retrieval;

  int tokens() const { return (image_height / patch) * (image_width / patch); }
  int token_size() const { return 3 * patch * patch; }
  int64_t image_bytes() const { return int64_t{3} * image_height * image_width; }
};

// Throws ModelError for anything but a complete manifest of format 1 with every value in range.
Manifest parse_manifest(std::string_view json);

// Name -> shape of every tensor that such a model has.
std::map<std::string, std::vector<int64_t>> expected_tensors(const Manifest& manifest);

// Throws ModelError naming the first tensor that is missing, unknown or of another shape.
void check_tensors(const Manifest& manifest, const Safetensors& file);

struct ModelFile {
  Manifest manifest;
  std::string manifest_json;  // as stored
  Safetensors weights;        // with data
  int64_t parameters;
};

// Opens a model file and checks all of it, the numbers included. Throws ModelError.
ModelFile load_model_file(const std::string& path);

}  // namespace rtfm
