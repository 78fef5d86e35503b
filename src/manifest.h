// SPDX-License-Identifier: Apache-2.0
// What the manifests of all families say, as JSON in a model file's metadata. docs/model_format.md
// is the same in prose; what only one family says is in src/models.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/section.h"

namespace rtfm {

struct SamplerRow {  // x <- a·x + b·f(x, t) + c·noise
  float t, a, b, c;
};

struct RetrievalDefaults {
  int context, sinks, recent;  // sinks + recent <= context
  double near, far;            // metres
  double commit_below;         // a generated frame with less support is kept
};

// One number of what leads from frame to frame, and how far it seems to move the camera.
struct Action {
  std::string name;
  double min, max;
  std::array<double, 3> move;  // metres per unit: right, down, forward of the camera's heading
  std::array<double, 2> turn;  // degrees per unit: to the right, up
};

// Families that go from frame to frame by actions: frame i attends to the `recent` frames before
// it, and to those before them whose number is a multiple of `every` and above i - within.
struct Sequence {
  int recent = 0, every = 0, within = 0;  // every: 0 for none
  bool renew = false;  // once a frame has left the window, the pages of the others are made again
};

struct Manifest {
  std::string family, name, licence;
  std::string source_file, source_sha256;  // the checkpoint it was made from

  int image_height, image_width;  // pixels
  int images = 1;                 // in a frame, one after the other in time

  double fx, fy;       // default intrinsics, in units of image width and height
  double world_scale;  // model units per metre

  int steps;                                        // the default; always a key of samplers
  std::map<int, std::vector<SamplerRow>> samplers;  // by number of steps

  RetrievalDefaults retrieval;

  std::vector<Action> actions;  // none: the family goes by poses
  Sequence sequence;            // with actions only
  bool posed_pages = false;     // pages depend on where their frame was seen from

  bool by_actions() const { return !actions.empty(); }
  int64_t image_bytes() const { return int64_t{3} * image_height * image_width; }
  int64_t frame_bytes() const { return images * image_bytes(); }
};

// Refuses what a newer rtfm_rt has written, before anything else can look wrong because of it, and
// returns the family.
std::string check_version(const Section& root);

// All but the sequence. own: the keys that the family adds at the root; "actions" when it goes by
// actions. max_time: the largest t of a sampler row. Throws ModelError.
Manifest parse_manifest(const Section& root, std::vector<std::string_view> own, double max_time);

}  // namespace rtfm
