// SPDX-License-Identifier: Apache-2.0
// Finds librtfm_cuda.so beside this module, where a driver can run it.
#pragma once

#include <string>

#include "csrc/cuda/api.h"

namespace rtfm::cuda {

struct Library {
  const Api* api = nullptr;  // null: `problem` says why, and what to do
  int32_t device = 0;
  std::string name;  // "cuda:0"
  std::string problem;
};

// number: of the device, or "" for the first one. Keeps what it opened open.
Library open_library(const char* number);

}  // namespace rtfm::cuda
