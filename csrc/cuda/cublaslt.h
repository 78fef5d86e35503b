// SPDX-License-Identifier: Apache-2.0
// What cublas.cc uses of cuBLASLt 13, as its binary interface has it: building wants nvcc alone.
// tests/test_cublas.py compares all of it with NVIDIA's own header where that is installed.
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <cstddef>
#include <cstdint>

namespace rtfm::cuda::lt {

enum class Status : int32_t {
  success = 0,
  alloc_failed = 3,
  invalid_value = 7,
  arch_mismatch = 8,
  not_supported = 15
};
enum class Compute : int32_t { f32 = 68 };
enum class Operation : int32_t { transposed = 1 };
enum class PointerMode : int32_t { host = 0, alpha_vector_beta_host = 4 };  // alpha: by row of D
enum class Epilogue : uint32_t { none = 1, bias = 4, gelu = 32, gelu_bias = 36 };
enum class Reduction : uint32_t { compute_type = 2 };  // partial sums stay in f32

enum class DescAttribute : int32_t {
  pointer_mode = 2,    // PointerMode
  operation_a = 3,     // Operation
  epilogue = 7,        // Epilogue
  bias_pointer = 8,    // an address
  bias_data_type = 26  // int32_t of cudaDataType
};
enum class PreferenceAttribute : int32_t {
  workspace_bytes = 1,    // uint64_t
  reduction_schemes = 3,  // Reduction
  alignment_a = 5,        // uint32_t, as the next three
  alignment_b = 6,
  alignment_c = 7,
  alignment_d = 8
};

using Handle = struct HandleOf*;
using Desc = struct DescOf*;
using Layout = struct LayoutOf*;  // column-major
using Preference = struct PreferenceOf*;
struct Algorithm {
  uint64_t data[8];
};
struct Proposal {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int32_t reserved[4];
};

// The functions, cublasLt before each name.
struct Functions {
  size_t (*GetVersion)();  // 130002 for 13.0.2
  const char* (*GetStatusName)(Status);
  Status (*Create)(Handle*);
  Status (*Destroy)(Handle);
  Status (*MatmulDescCreate)(Desc*, Compute, cudaDataType_t scale);
  Status (*MatmulDescDestroy)(Desc);
  Status (*MatmulDescSetAttribute)(Desc, DescAttribute, const void* value, size_t bytes);
  Status (*MatrixLayoutCreate)(Layout*, cudaDataType_t, uint64_t rows, uint64_t cols,
                               int64_t column_stride);
  Status (*MatrixLayoutDestroy)(Layout);
  Status (*MatmulPreferenceCreate)(Preference*);
  Status (*MatmulPreferenceDestroy)(Preference);
  Status (*MatmulPreferenceSetAttribute)(Preference, PreferenceAttribute, const void* value,
                                         size_t bytes);
  Status (*MatmulAlgoGetHeuristic)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, Preference,
                                   int most, Proposal* proposals, int* found);
  // D = alpha * op(A) * B + beta * C, then the epilogue
  Status (*Matmul)(Handle, Desc, const void* alpha, const void* a, Layout, const void* b, Layout,
                   const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*,
                   void* workspace, size_t workspace_bytes, cudaStream_t);
};
#define RTFM_CUBLASLT_FUNCTIONS(F) \
  F(GetVersion)                    \
  F(GetStatusName)                 \
  F(Create)                        \
  F(Destroy)                       \
  F(MatmulDescCreate)              \
  F(MatmulDescDestroy)             \
  F(MatmulDescSetAttribute)        \
  F(MatrixLayoutCreate)            \
  F(MatrixLayoutDestroy)           \
  F(MatmulPreferenceCreate)        \
  F(MatmulPreferenceDestroy)       \
  F(MatmulPreferenceSetAttribute)  \
  F(MatmulAlgoGetHeuristic)        \
  F(Matmul)

}  // namespace rtfm::cuda::lt
