// SPDX-License-Identifier: Apache-2.0
// The two ops that live on the tensor cores, attention and matmul: Triton kernels compiled ahead of
// time (csrc/cuda/kernels), launched through the CUDA runtime.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "csrc/backend.h"

namespace rtfm::cuda {

// Memory layouts, as csrc/cuda/layout.h has them; operands are bf16, every row starts on 16 bytes.
//   x     rows and columns padded; columns from k on are zero
//   w     rows and columns padded; zero beyond n and k
//   y     y_stride a multiple of 16; columns from n to a multiple of 16 get zero (gated_residual
//         leaves them as they are)
//   q     scaled by log2(e)/sqrt(dim): scores in powers of two; finite in the rows beyond tokens
//   slot  finite in the keys beyond tokens
// q and context start on 128 bytes. dim: a multiple of 8 up to 256, all that a manifest allows.

// y = r with r[row, col] = x_scale[row] * w_scale[col] * sum(x * w): what e4m3 operands stand for.
struct Fp8Scales {
  const float* x;  // [rows]
  const float* w;  // [n]
};

// q[row] = e4m3(x[row] / scale[row]), scale[row] = max|x[row]| / 448 (1 for a row of zeros).
struct QuantizeArgs {
  const void* x;  // [rows, cols] bf16
  void* q;        // [rows, q_stride] e4m3; columns cols .. round_up(cols, 128) get zero
  float* scale;   // [rows]
  int64_t x_stride, q_stride;
  int64_t rows, cols;
};

// The kernels of one device. prepare() loads code; nothing else allocates, waits or depends on
// anything but its arguments, so that all launches may be captured into a graph.
class TensorOps {
 public:
  TensorOps() = default;
  ~TensorOps();
  TensorOps(const TensorOps&) = delete;
  TensorOps& operator=(const TensorOps&) = delete;

  // Loads the kernels for the current device. cudaErrorNoKernelImageForDevice where there are none:
  // they exist for compute capability 8.0, 8.6, 8.7, 8.9, 9.0, 10.0 and 12.0.
  cudaError_t prepare();

  bool has_fp8() const;  // false on 8.0 to 8.7

  // Bytes of workspace for one launch. The workspace starts on 256 bytes, is zeroed once, and
  // belongs to these ops and to one stream; the largest need serves all launches of that stream.
  int64_t attention_workspace(const AttentionArgs&) const;
  int64_t matmul_workspace(int64_t rows, int64_t n, int64_t k) const;  // bf16 and e4m3

  cudaError_t attention(const AttentionArgs&, void* workspace, cudaStream_t) const;
  cudaError_t matmul(const MatmulArgs&, void* workspace, cudaStream_t) const;

  // The same with x and w in e4m3; the epilogues and y are those of matmul (gelu writes bf16).
  cudaError_t matmul_fp8(const MatmulArgs&, const Fp8Scales&, void* workspace, cudaStream_t) const;
  cudaError_t quantize_rows(const QuantizeArgs&, cudaStream_t) const;

  // Both: x in bf16 becomes e4m3 in the workspace; w lies as e4m3_bytes of layout.h says.
  int64_t quantized_matmul_workspace(int64_t rows, int64_t n, int64_t k) const;
  cudaError_t quantized_matmul(const MatmulArgs&, void* workspace, cudaStream_t) const;

 private:
  struct Loaded;
  Loaded* loaded_ = nullptr;
};

}  // namespace rtfm::cuda
