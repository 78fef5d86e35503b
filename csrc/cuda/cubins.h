// SPDX-License-Identifier: Apache-2.0
// The Triton kernels of csrc/cuda/kernels as machine code, one entry a kernel and architecture.
#pragma once

#include <cstdint>

namespace rtfm::cuda {

enum class Kind : uint8_t {
  attention_any,   // masks keys and dims
  attention_even,  // tokens a multiple of cols and of 64, dim = depth
  attention_tma,   // the same, through tensor maps
  matmul_bf16,     // through tensor maps where the kernel's name says so
  matmul_fp8,
  quantize_rows
};

struct Cubin {
  const unsigned char* image;
  const char* kernel;  // its name in there
  Kind kind;
  int sm;                 // 90 for compute capability 9.0
  int rows, cols, depth;  // of the tile: queries, keys, dim; or rows of x, rows of w, columns
  int warps, shared;      // threads / 32, bytes of shared memory
  bool mapped;            // takes tensor maps
};

extern const Cubin kCubins[];
extern const int kCubinCount;

// The architecture whose kernels run on compute capability major.minor; 0 if there is none.
int cubin_architecture(int major, int minor);

}  // namespace rtfm::cuda
