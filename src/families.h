// SPDX-License-Identifier: Apache-2.0
// A model file, whatever its family.
#pragma once

#include <memory>
#include <string>

#include "src/network.h"
#include "src/safetensors.h"

namespace rtfm {

struct ModelFile {
  Manifest manifest;
  std::string manifest_json;  // as stored
  std::unique_ptr<Topology> topology;
  Safetensors weights;
  int64_t parameters;
};

// Opens a model file and checks all of it but the numbers, which are checked as they are read.
// Throws ModelError.
ModelFile load_model_file(const std::string& path);

}  // namespace rtfm
