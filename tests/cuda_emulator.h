// SPDX-License-Identifier: Apache-2.0
// Test only: a second implementation of the table of csrc/cuda/api.h, in host memory. The bodies
// are those that nvcc compiles; matmul and attention are plain loops. Like a GPU it does nothing
// before somebody waits for it, and recorded work is done again with the very bytes of its
// arguments.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace rtfm::testing {

enum class Blocks {
  serial,      // one thread does the work of a group
  ascending,   // fibers, the warps in this order
  descending,  // ...
  random,
  unsynced  // fibers without barriers: must give wrong results
};

// What all emulated devices do from now on.
struct CudaEmulation {
  Blocks blocks = Blocks::serial;
  bool found = false;  // whether "auto" and "cuda" find it; "cuda:emulated" always does
  bool fp8 = true;     // whether they have quantized_matmul
  int64_t memory = int64_t{1} << 40;  // bytes of a device
  int64_t launches_left = -1;         // ops and recordings until it fails; never if negative
  std::string cublas;                 // the path that devices which are none get instead of theirs
  std::function<void()> on_wait;      // called when somebody has waited for one
  // Does what a caller's stream was given; 0 to 99 are streams.
  std::function<void(uint64_t stream)> run_stream;
};
CudaEmulation& cuda_emulation();

}  // namespace rtfm::testing
