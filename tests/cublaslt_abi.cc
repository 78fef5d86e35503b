// SPDX-License-Identifier: Apache-2.0
// csrc/cuda/cublaslt.h beside NVIDIA's header: compiling this compares them. With the path of the
// library, it makes there what cublas.cc makes without a GPU; built by test_cublas.py.
#include <cublasLt.h>
#include <dlfcn.h>

#include <cstdio>
#include <type_traits>

#include "csrc/cuda/cublaslt.h"

namespace lt = rtfm::cuda::lt;

#define SAME(ours, theirs) static_assert(int64_t(lt::ours) == int64_t(theirs))
SAME(Status::success, CUBLAS_STATUS_SUCCESS);
SAME(Status::alloc_failed, CUBLAS_STATUS_ALLOC_FAILED);
SAME(Status::invalid_value, CUBLAS_STATUS_INVALID_VALUE);
SAME(Status::arch_mismatch, CUBLAS_STATUS_ARCH_MISMATCH);
SAME(Status::not_supported, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(Compute::f32, CUBLAS_COMPUTE_32F);
SAME(Operation::transposed, CUBLAS_OP_T);
SAME(PointerMode::host, CUBLASLT_POINTER_MODE_HOST);
SAME(PointerMode::alpha_vector_beta_host, CUBLASLT_POINTER_MODE_ALPHA_DEVICE_VECTOR_BETA_HOST);
SAME(Epilogue::none, CUBLASLT_EPILOGUE_DEFAULT);
SAME(Epilogue::bias, CUBLASLT_EPILOGUE_BIAS);
SAME(Epilogue::gelu, CUBLASLT_EPILOGUE_GELU);
SAME(Epilogue::gelu_bias, CUBLASLT_EPILOGUE_GELU_BIAS);
SAME(Reduction::compute_type, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(DescAttribute::pointer_mode, CUBLASLT_MATMUL_DESC_POINTER_MODE);
SAME(DescAttribute::operation_a, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(DescAttribute::epilogue, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(DescAttribute::bias_pointer, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(DescAttribute::bias_data_type, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE);
SAME(PreferenceAttribute::workspace_bytes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(PreferenceAttribute::reduction_schemes, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(PreferenceAttribute::alignment_a, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(PreferenceAttribute::alignment_b, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(PreferenceAttribute::alignment_c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(PreferenceAttribute::alignment_d, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

using Theirs = cublasLtMatmulHeuristicResult_t;
static_assert(sizeof(lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(lt::Proposal) == sizeof(Theirs));
static_assert(offsetof(lt::Proposal, algorithm) == offsetof(Theirs, algo));
static_assert(offsetof(lt::Proposal, workspace_bytes) == offsetof(Theirs, workspaceSize));
static_assert(offsetof(lt::Proposal, state) == offsetof(Theirs, state));

// Whether two types are passed alike: addresses, or numbers of one size and kind.
template <class A, class B>
constexpr bool alike = (std::is_pointer_v<A> && std::is_pointer_v<B>) ||
                       (!std::is_pointer_v<A> && !std::is_pointer_v<B> && sizeof(A) == sizeof(B) &&
                        std::is_floating_point_v<A> == std::is_floating_point_v<B>);
template <class A, class... As, class B, class... Bs>
constexpr bool called_alike(A (*)(As...), B (*)(Bs...)) {
  if constexpr (sizeof...(As) == sizeof...(Bs))
    return alike<A, B> && (alike<As, Bs> && ...);
  else
    return false;
}
#define CALLED(name) \
  static_assert(called_alike(decltype(lt::Functions::name){}, decltype(&cublasLt##name){}));
RTFM_CUBLASLT_FUNCTIONS(CALLED)

int main(int count, char** arguments) {
  if (count < 2) return 0;
  lt::Functions f;
  void* library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) return std::puts(dlerror()), 1;
#define FIND(name)                                                               \
  f.name = reinterpret_cast<decltype(f.name)>(dlsym(library, "cublasLt" #name)); \
  if (!f.name) return std::puts(#name), 1;
  RTFM_CUBLASLT_FUNCTIONS(FIND)

  int refused = 0;
  const auto accepts = [&](const char* what, lt::Status status) {
    if (status == lt::Status::success) return;
    std::printf("%s: %s\n", what, f.GetStatusName(status));
    ++refused;
  };
  lt::Desc desc = nullptr;
  accepts("a description", f.MatmulDescCreate(&desc, lt::Compute::f32, CUDA_R_32F));
  const auto describe = [&](lt::DescAttribute what, auto value) {
    accepts("an attribute", f.MatmulDescSetAttribute(desc, what, &value, sizeof value));
  };
  describe(lt::DescAttribute::operation_a, lt::Operation::transposed);
  describe(lt::DescAttribute::pointer_mode, lt::PointerMode::alpha_vector_beta_host);
  describe(lt::DescAttribute::epilogue, lt::Epilogue::gelu_bias);
  describe(lt::DescAttribute::bias_data_type, int32_t(CUDA_R_32F));
  describe(lt::DescAttribute::bias_pointer, reinterpret_cast<const void*>(16));
  accepts("dropping it", f.MatmulDescDestroy(desc));
  lt::Layout layout = nullptr;
  accepts("a layout", f.MatrixLayoutCreate(&layout, CUDA_R_16BF, 48, 32, 64));
  accepts("dropping it", f.MatrixLayoutDestroy(layout));
  lt::Preference preference = nullptr;
  accepts("a preference", f.MatmulPreferenceCreate(&preference));
  const auto prefer = [&](lt::PreferenceAttribute what, auto value) {
    accepts("a wish", f.MatmulPreferenceSetAttribute(preference, what, &value, sizeof value));
  };
  prefer(lt::PreferenceAttribute::workspace_bytes, uint64_t{1} << 25);
  prefer(lt::PreferenceAttribute::reduction_schemes, lt::Reduction::compute_type);
  prefer(lt::PreferenceAttribute::alignment_a, uint32_t{16});
  prefer(lt::PreferenceAttribute::alignment_d, uint32_t{16});
  accepts("dropping it", f.MatmulPreferenceDestroy(preference));
  std::printf("cuBLASLt %zu: %d refused\n", f.GetVersion(), refused);
  return refused != 0;
}
