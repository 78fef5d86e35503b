// SPDX-License-Identifier: Apache-2.0
// Matmuls by NVIDIA's cuBLASLt, a library of the caller's that is opened at run time. What it
// cannot express, or does not do as expected, is left to the Triton kernels of tensor_ops.h.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/backend.h"
#include "csrc/cuda/cublaslt.h"

namespace rtfm::cuda {

// How a matmul of cuBLASLt can end.
enum class Form : uint8_t {
  store,
  store_bias,
  gelu,
  gelu_bias,
  residual,  // y += r
  residual_bias,
  gated,  // y += gate * r, without a bias
  none    // it cannot
};
constexpr int kForms = int(Form::none);

// none: another activation; a gate and a bias, which cuBLASLt would add ungated; what does not lie
// in steps of 16 bytes.
Form form_of(const MatmulArgs& a);

// Of one device and stream. Which algorithm multiplies a shape depends on the library, the GPU and
// the shape alone, never on time: whoever multiplies again gets the same bits.
class Cublas {
 public:
  static constexpr int64_t kPinned = 64 << 10;

  // rank: of the algorithms that the library proposes for a shape. Others than the first are for
  // benchmarks.
  explicit Cublas(int rank = 0) : rank_(rank) {}
  ~Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  // Opens the library at `path` ("" for none) for the current device, for good, and tries every
  // form once. pinned: kPinned bytes. An error is the device's; about() tells what the library's
  // is.
  cudaError_t open(const char* path, cudaStream_t stream, void* pinned);

  // "cuBLASLt 13.0.2", with what it is not used for; "no cuBLASLt: " and why; "" if none was given.
  const char* about() const { return about_; }

  // cudaErrorNotSupported: nothing happened, it is for the Triton kernels, and always will be. A
  // shape is planned, and code for it loaded, when it is seen first; then nothing is allocated.
  cudaError_t matmul(const MatmulArgs& a, cudaStream_t stream);
  const char* problem() const { return problem_; }  // of the last call that failed

 private:
  struct Plan;

  bool load(const char* path);
  cudaError_t try_forms(cudaStream_t stream, void* pinned);
  cudaError_t plan(const MatmulArgs& a, Form form, Plan** found);
  lt::Status describe(const MatmulArgs& a, Plan& p);
  lt::Status choose(Plan& p);
  cudaError_t error_of(lt::Status status);

  int rank_;
  lt::Functions lt_ = {};
  lt::Handle handle_ = nullptr;
  void* workspace_ = nullptr;
  uint32_t offered_ = 0;  // a bit for each form
  Plan* plans_ = nullptr;
  char about_[512] = "", problem_[128] = "";
};

}  // namespace rtfm::cuda
