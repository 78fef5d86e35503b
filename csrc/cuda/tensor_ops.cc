// SPDX-License-Identifier: Apache-2.0
#include "csrc/cuda/tensor_ops.h"

#include <cuda.h>  // types only: nothing of libcuda is linked

#include <algorithm>
#include <new>

#include "csrc/cuda/cubins.h"
#include "csrc/cuda/layout.h"
#include "csrc/cuda/plan.h"

namespace rtfm::cuda {
namespace {

constexpr int kMaxKernels = 32;                    // of one architecture
constexpr int64_t kPartials = kMaxSplitTiles * 4;  // bytes of counters before them
constexpr uint32_t kSwizzleBytes = 128;            // width of every box

unsigned tiles_of(int64_t n, int64_t tile) { return unsigned((n + tile - 1) / tile); }

struct Kernel {
  Cubin about;
  cudaLibrary_t library;
  cudaKernel_t kernel;
};

// [rows, cols] as a kernel takes it: an address, or a tensor map with its shape and strides.
struct Matrix {
  const void* base;
  int32_t rows, cols;
  int64_t stride;
  int64_t unit = 1;
  bool mapped = false;
  CUtensorMap map = {};
};

// The arguments of a Triton kernel: the caller's, then two addresses of scratch memory, unused.
class Arguments {
 public:
  template <class T>
  Arguments& add(const T& value) {
    values_[count_++] = const_cast<T*>(&value);
    return *this;
  }
  Arguments& add(const Matrix& m) {
    if (!m.mapped) return add(m.base);
    return add(m.map).add(m.rows).add(m.cols).add(m.stride).add(m.unit);
  }
  cudaError_t launch(const Kernel& k, dim3 grid, cudaStream_t stream) {
    static const void* const nothing = nullptr;
    add(nothing).add(nothing);
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(unsigned(k.about.warps) * 32);
    config.dynamicSmemBytes = size_t(k.about.shared);
    config.stream = stream;
    return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(k.kernel), values_);
  }

 private:
  void* values_[40];
  int count_ = 0;
};

}  // namespace

struct TensorOps::Loaded {
  Kernel kernels[kMaxKernels];
  int count = 0;
  int sms = 0, sm = 0;
  decltype(&cuTensorMapEncodeTiled) encode = nullptr;

  ~Loaded() {
    for (int i = 0; i < count; ++i) cudaLibraryUnload(kernels[i].library);
  }

  cudaError_t load(const Cubin& cubin) {
    Kernel k{cubin, nullptr, nullptr};
    cudaError_t error =
        cudaLibraryLoadData(&k.library, cubin.image, nullptr, nullptr, 0, nullptr, nullptr, 0);
    if (error != cudaSuccess) return error;
    kernels[count++] = k;
    cudaKernel_t& kernel = kernels[count - 1].kernel;
    error = cudaLibraryGetKernel(&kernel, k.library, cubin.kernel);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                cudaFuncAttributeMaxDynamicSharedMemorySize, cubin.shared);
  }

  const Kernel& only(Kind kind) const {
    int i = 0;
    while (kernels[i].about.kind != kind) ++i;
    return kernels[i];
  }

  // Makes `m` a tensor map, of boxes of box_rows, if the kernel takes one.
  cudaError_t describe(Matrix& m, const Kernel& k, int box_rows, DType dtype) const {
    if (!k.about.mapped) return cudaSuccess;
    const bool wide = dtype == DType::bf16;
    const cuuint64_t shape[] = {cuuint64_t(m.cols), cuuint64_t(m.rows)};
    const cuuint64_t strides[] = {cuuint64_t(m.stride * size_of(dtype))};
    const cuuint32_t box[] = {kSwizzleBytes / uint32_t(size_of(dtype)), cuuint32_t(box_rows)};
    const cuuint32_t every[] = {1, 1};
    m.mapped = true;
    const CUresult result =
        encode(&m.map, wide ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
               const_cast<void*>(m.base), shape, strides, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
               CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
  }

  const Kernel& attention_kernel(const AttentionArgs& a) const;
  int attention_splits(const AttentionArgs& a) const;
  MatmulPlan matmul_plan(Kind kind, int64_t rows, int64_t n, int64_t k,
                         const Kernel** kernel) const;
  cudaError_t matmul(Kind kind, const MatmulArgs& a, const Fp8Scales& scales, void* workspace,
                     cudaStream_t stream) const;
};

TensorOps::~TensorOps() { delete loaded_; }

cudaError_t TensorOps::prepare() {
  delete loaded_;
  loaded_ = new (std::nothrow) Loaded;
  if (!loaded_) return cudaErrorMemoryAllocation;
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const auto attribute = [&](int* value, cudaDeviceAttr which) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, which, device);
  };
  attribute(&major, cudaDevAttrComputeCapabilityMajor);
  attribute(&minor, cudaDevAttrComputeCapabilityMinor);
  attribute(&loaded_->sms, cudaDevAttrMultiProcessorCount);
  if (error != cudaSuccess) return error;
  loaded_->sm = cubin_architecture(major, minor);
  if (!loaded_->sm) return cudaErrorNoKernelImageForDevice;

  for (int i = 0; i < kCubinCount && error == cudaSuccess; ++i)
    if (kCubins[i].sm == loaded_->sm) error = loaded_->load(kCubins[i]);
  if (error != cudaSuccess || major == 8) return error;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                           cudaEnableDefault, &found);
  loaded_->encode = reinterpret_cast<decltype(loaded_->encode)>(function);
  return error != cudaSuccess || function ? error : cudaErrorNotSupported;
}

bool TensorOps::has_fp8() const { return loaded_->sm >= 89; }

// ---- Attention.

const Kernel& TensorOps::Loaded::attention_kernel(const AttentionArgs& a) const {
  const Kernel* best = nullptr;
  for (int i = 0; i < count; ++i) {
    const Cubin& c = kernels[i].about;
    const bool exact = c.kind == Kind::attention_even || c.kind == Kind::attention_tma;
    if (exact && c.depth == a.dim && a.tokens >= c.rows && a.tokens % c.cols == 0 &&
        a.tokens % 64 == 0)
      return kernels[i];
    if (c.kind == Kind::attention_any && c.depth >= a.dim && (!best || c.depth < best->about.depth))
      best = &kernels[i];
  }
  return *best;
}

int TensorOps::Loaded::attention_splits(const AttentionArgs& a) const {
  const Cubin& c = attention_kernel(a).about;
  const int64_t blocks = tiles_of(a.tokens, c.rows) * a.heads;
  return plan_attention(blocks, tiles_of(a.tokens, c.cols) * a.slots, sms * (8 / c.warps));
}

int64_t TensorOps::attention_workspace(const AttentionArgs& a) const {
  const Cubin& c = loaded_->attention_kernel(a).about;
  const int64_t splits = loaded_->attention_splits(a);
  const int64_t rows = round_up(a.tokens, c.rows) * a.heads;
  return splits == 1 ? 0 : kPartials + splits * rows * (c.depth + 1) * 4;
}

cudaError_t TensorOps::attention(const AttentionArgs& a, void* workspace,
                                 cudaStream_t stream) const {
  const Kernel& k = loaded_->attention_kernel(a);
  const Cubin& c = k.about;
  const int splits = loaded_->attention_splits(a);
  const int64_t queries = a.heads * padded_queries(a.tokens);
  const int64_t keys = a.slots * 2 * a.kv_heads * padded_keys(a.tokens);
  const int32_t dim = int32_t(a.dim);
  Matrix q{a.q, int32_t(queries), dim, a.dim};
  Matrix context{a.context, int32_t(keys), dim, a.dim};
  cudaError_t error = loaded_->describe(q, k, c.rows, DType::bf16);
  if (error == cudaSuccess) error = loaded_->describe(context, k, c.cols, DType::bf16);
  if (error != cudaSuccess) return error;

  char* partial = splits == 1 ? nullptr : static_cast<char*>(workspace) + kPartials;
  const int64_t rows = round_up(a.tokens, c.rows) * a.heads;
  char* lse = splits == 1 ? nullptr : partial + splits * rows * c.depth * 4;
  const int32_t slots = int32_t(a.slots), tokens = int32_t(a.tokens), stride = int32_t(a.y_stride);
  const int32_t group = int32_t(a.heads / a.kv_heads);
  return Arguments()
      .add(q)
      .add(context)
      .add(a.y)
      .add(partial)
      .add(lse)
      .add(workspace)
      .add(slots)
      .add(tokens)
      .add(dim)
      .add(stride)
      .add(group)
      .launch(k, {tiles_of(a.tokens, c.rows), unsigned(a.heads), unsigned(splits)}, stream);
}

// ---- Matmul.

MatmulPlan TensorOps::Loaded::matmul_plan(Kind kind, int64_t rows, int64_t n, int64_t k,
                                          const Kernel** kernel) const {
  Tile tiles[kMaxKernels];
  const Kernel* found[kMaxKernels];
  int number = 0;
  for (int i = 0; i < count; ++i) {
    const Cubin& c = kernels[i].about;
    if (c.kind != kind) continue;
    tiles[number] = {c.rows, c.cols, c.depth};
    found[number++] = &kernels[i];
  }
  const MatmulPlan plan = plan_matmul(tiles, number, rows, n, k, sms);
  *kernel = found[plan.tile];
  return plan;
}

int64_t TensorOps::matmul_workspace(int64_t rows, int64_t n, int64_t k) const {
  int64_t most = 0;
  for (const Kind kind : {Kind::matmul_bf16, Kind::matmul_fp8}) {
    if (kind == Kind::matmul_fp8 && !has_fp8()) continue;
    const Kernel* kernel = nullptr;
    const MatmulPlan plan = loaded_->matmul_plan(kind, rows, n, k, &kernel);
    const Cubin& c = kernel->about;
    const int64_t area = round_up(rows, c.rows) * round_up(n, c.cols);
    const int64_t bytes = plan.splits == 1 ? 0 : kPartials + plan.splits * area * 4;
    if (bytes > most) most = bytes;
  }
  return most;
}

cudaError_t TensorOps::Loaded::matmul(Kind kind, const MatmulArgs& a, const Fp8Scales& scales,
                                      void* workspace, cudaStream_t stream) const {
  const Kernel* kernel = nullptr;
  const MatmulPlan plan = matmul_plan(kind, a.rows, a.n, a.k, &kernel);
  const Cubin& c = kernel->about;
  const DType dtype = kind == Kind::matmul_bf16 ? DType::bf16 : DType::e4m3;
  const int32_t rows = int32_t(a.rows), n = int32_t(a.n), k = int32_t(a.k);
  const int64_t w_row = kind == Kind::matmul_bf16 ? padded_cols(a.k) : padded_cols_e4m3(a.k);
  Matrix x{a.x, rows, k, a.x_stride};
  Matrix w{a.w, n, k, w_row};
  cudaError_t error = describe(x, *kernel, c.rows, dtype);
  if (error == cudaSuccess) error = describe(w, *kernel, c.cols, dtype);
  if (error != cudaSuccess) return error;

  void* partial = plan.splits == 1 ? nullptr : static_cast<char*>(workspace) + kPartials;
  const int32_t x_stride = int32_t(a.x_stride), w_stride = int32_t(w_row);
  const int32_t y_stride = int32_t(a.y_stride), has_bias = a.bias != nullptr;
  const int32_t has_gate = a.gate != nullptr;
  const int32_t epilogue = int32_t(a.epilogue);  // numbered as the kernel has them
  const unsigned tiles = tiles_of(a.rows, c.rows) * tiles_of(a.n, c.cols);
  return Arguments()
      .add(x)
      .add(w)
      .add(a.y)
      .add(a.y)
      .add(a.bias)
      .add(a.gate)
      .add(scales.x)
      .add(scales.w)
      .add(partial)
      .add(workspace)
      .add(rows)
      .add(n)
      .add(k)
      .add(x_stride)
      .add(w_stride)
      .add(y_stride)
      .add(has_bias)
      .add(has_gate)
      .add(epilogue)
      .launch(*kernel, {tiles, unsigned(plan.splits)}, stream);
}

static_assert(int(Epilogue::store) == 0 && int(Epilogue::gelu) == 1 &&
              int(Epilogue::gated_residual) == 2 && int(Epilogue::gelu_erf) == 3 &&
              int(Epilogue::silu) == 4);

cudaError_t TensorOps::matmul(const MatmulArgs& a, void* workspace, cudaStream_t stream) const {
  return loaded_->matmul(Kind::matmul_bf16, a, {}, workspace, stream);
}

cudaError_t TensorOps::matmul_fp8(const MatmulArgs& a, const Fp8Scales& scales, void* workspace,
                                  cudaStream_t stream) const {
  if (!has_fp8()) return cudaErrorNotSupported;
  return loaded_->matmul(Kind::matmul_fp8, a, scales, workspace, stream);
}

cudaError_t TensorOps::quantize_rows(const QuantizeArgs& a, cudaStream_t stream) const {
  if (!has_fp8()) return cudaErrorNotSupported;
  const int32_t cols = int32_t(a.cols);
  const int32_t x_stride = int32_t(a.x_stride), q_stride = int32_t(a.q_stride);
  return Arguments().add(a.x).add(a.q).add(a.scale).add(cols).add(x_stride).add(q_stride).launch(
      loaded_->only(Kind::quantize_rows), {unsigned(a.rows)}, stream);
}

// x follows the counters and partial sums: counters must stay zero, whatever the shape.
int64_t TensorOps::quantized_matmul_workspace(int64_t rows, int64_t n, int64_t k) const {
  return std::max(kPartials, matmul_workspace(rows, n, k)) + e4m3_bytes(rows, k) + rows * 4;
}

cudaError_t TensorOps::quantized_matmul(const MatmulArgs& a, void* workspace,
                                        cudaStream_t stream) const {
  char* x = static_cast<char*>(workspace) + std::max(kPartials, matmul_workspace(a.rows, a.n, a.k));
  float* x_scales = reinterpret_cast<float*>(x + e4m3_bytes(a.rows, a.k));
  const int64_t stride = padded_cols_e4m3(a.k);
  const cudaError_t error =
      quantize_rows({a.x, x, x_scales, a.x_stride, stride, a.rows, a.k}, stream);
  if (error != cudaSuccess) return error;
  const void* w_scales = static_cast<const char*>(a.w) + e4m3_bytes(a.n, a.k);
  MatmulArgs quantized = a;
  quantized.x = x;
  quantized.x_stride = stride;
  return matmul_fp8(quantized, {x_scales, static_cast<const float*>(w_scales)}, workspace, stream);
}

}  // namespace rtfm::cuda
