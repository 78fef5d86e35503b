// SPDX-License-Identifier: Apache-2.0
// A CUDA runtime that hands launches to whoever runs the tests, and the ops of
// csrc/cuda/tensor_ops.h over it as C functions. Loaded by test_tensor_ops.py.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <vector>

#include "csrc/cuda/cubins.h"
#include "csrc/cuda/plan.h"
#include "csrc/cuda/tensor_ops.h"

namespace {

// Runs kernel `cubin` of kCubins; grid and block as given; one address per parameter.
using Launch = void (*)(int cubin, const int* grid, int threads, int shared, void** arguments);

struct Device {
  int major, minor, sms;
  Launch launch;
  int shared_allowed[256];  // by cubin
};
Device device;

// What a tensor map of this runtime holds.
struct Map {
  uint64_t base, cols, rows, stride;
  uint32_t box_cols, box_rows, bytes, swizzle;
};

CUresult encode(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base,
                const cuuint64_t* shape, const cuuint64_t* strides, const cuuint32_t* box,
                const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  if (rank != 2 || reinterpret_cast<uint64_t>(base) % 16 || strides[0] % 16 || box[1] > 256)
    return CUDA_ERROR_INVALID_VALUE;
  const Map made{reinterpret_cast<uint64_t>(base),
                 shape[0],
                 shape[1],
                 strides[0],
                 box[0],
                 box[1],
                 type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ? 2u : 1u,
                 uint32_t(swizzle)};
  static_assert(sizeof made <= sizeof *map);
  std::memcpy(map, &made, sizeof made);
  return CUDA_SUCCESS;
}

int index_of(const void* kernel) {
  return int(static_cast<const rtfm::cuda::Cubin*>(kernel) - rtfm::cuda::kCubins);
}

// Scratch as the contract has it: zeros at first, then whatever is left there.
std::vector<char> workspace;
void* reserve(int64_t bytes) {
  if (int64_t(workspace.size()) < bytes + 256) workspace.assign(size_t(bytes) + 256, 0);
  char* start = workspace.data();
  return start + (256 - reinterpret_cast<uint64_t>(start) % 256) % 256;
}

rtfm::cuda::TensorOps* ops = nullptr;

}  // namespace

extern "C" {

cudaError_t cudaGetDevice(int* which) {
  *which = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? device.major
           : attribute == cudaDevAttrComputeCapabilityMinor ? device.minor
                                                            : device.sms;
  return cudaSuccess;
}
// A library and a kernel are the entry of kCubins.
cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void* code, cudaJitOption*, void**,
                                unsigned, cudaLibraryOption*, void**, unsigned) {
  for (int i = 0; i < rtfm::cuda::kCubinCount; ++i)
    if (rtfm::cuda::kCubins[i].image == code)
      *library =
          reinterpret_cast<cudaLibrary_t>(const_cast<rtfm::cuda::Cubin*>(rtfm::cuda::kCubins + i));
  return cudaSuccess;
}
cudaError_t cudaLibraryUnload(cudaLibrary_t) { return cudaSuccess; }
cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library, const char* name) {
  *kernel = reinterpret_cast<cudaKernel_t>(library);
  const auto* cubin = reinterpret_cast<const rtfm::cuda::Cubin*>(library);
  return std::strcmp(name, cubin->kernel) ? cudaErrorSymbolNotFound : cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  device.shared_allowed[index_of(kernel)] = value;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned,
                                             unsigned long long, cudaDriverEntryPointQueryResult*) {
  *function = reinterpret_cast<void*>(&encode);
  return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* kernel, void** arguments) {
  const int cubin = index_of(kernel);
  if (int(c->dynamicSmemBytes) > device.shared_allowed[cubin]) return cudaErrorInvalidValue;
  const int grid[] = {int(c->gridDim.x), int(c->gridDim.y), int(c->gridDim.z)};
  device.launch(cubin, grid, int(c->blockDim.x), int(c->dynamicSmemBytes), arguments);
  return cudaSuccess;
}

int open_device(int major, int minor, int sms, Launch launch) {
  device = {major, minor, sms, launch, {}};
  workspace.clear();
  delete ops;
  ops = new rtfm::cuda::TensorOps;
  return ops->prepare();
}

int run_attention(const void* q, const void* context, void* y, int64_t y_stride, int64_t slots,
                  int64_t tokens, int64_t heads, int64_t kv_heads, int64_t dim) {
  const rtfm::AttentionArgs a{.q = q,
                              .context = context,
                              .y = y,
                              .y_stride = y_stride,
                              .slots = slots,
                              .tokens = tokens,
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .dim = dim};
  return ops->attention(a, reserve(ops->attention_workspace(a)), nullptr);
}

int run_matmul(const void* x, const void* w, const float* bias, const float* gate, void* y,
               int64_t x_stride, int64_t y_stride, int64_t rows, int64_t n, int64_t k, int epilogue,
               const float* x_scale, const float* w_scale) {
  const rtfm::MatmulArgs a{.x = x,
                           .w = w,
                           .bias = bias,
                           .gate = gate,
                           .y = y,
                           .x_stride = x_stride,
                           .y_stride = y_stride,
                           .rows = rows,
                           .n = n,
                           .k = k,
                           .epilogue = rtfm::Epilogue(epilogue)};
  void* scratch = reserve(ops->matmul_workspace(rows, n, k));
  if (!x_scale) return ops->matmul(a, scratch, nullptr);
  return ops->matmul_fp8(a, {x_scale, w_scale}, scratch, nullptr);
}

int run_quantized_matmul(const void* x, const void* w, const float* bias, float* y,
                         int64_t x_stride, int64_t y_stride, int64_t rows, int64_t n, int64_t k) {
  const rtfm::MatmulArgs a{.x = x,
                           .w = w,
                           .bias = bias,
                           .gate = nullptr,
                           .y = y,
                           .x_stride = x_stride,
                           .y_stride = y_stride,
                           .rows = rows,
                           .n = n,
                           .k = k,
                           .epilogue = rtfm::Epilogue::store};
  return ops->quantized_matmul(a, reserve(ops->quantized_matmul_workspace(rows, n, k)), nullptr);
}

int run_quantize(const void* x, void* q, float* scale, int64_t x_stride, int64_t q_stride,
                 int64_t rows, int64_t cols) {
  return ops->quantize_rows({x, q, scale, x_stride, q_stride, rows, cols}, nullptr);
}

int plan_matmul(int64_t rows, int64_t n, int64_t k, int sms) {
  const rtfm::cuda::Tile tiles[] = {{64, 64, 64}, {128, 128, 64}};
  const rtfm::cuda::MatmulPlan plan = rtfm::cuda::plan_matmul(tiles, 2, rows, n, k, sms);
  return plan.tile * 100 + plan.splits;
}

int plan_attention(int64_t blocks, int64_t steps, int64_t at_once) {
  return rtfm::cuda::plan_attention(blocks, steps, at_once);
}
}
