// SPDX-License-Identifier: Apache-2.0
// librtfm_cuda.so: the table of csrc/cuda/api.h over the CUDA runtime. No exception and no C++
// library type leaves it.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

#include "csrc/cuda/api.h"
#include "csrc/cuda/cublas.h"
#include "csrc/cuda/ops.h"
#include "csrc/cuda/tensor_ops.h"

namespace rtfm::cuda {

constexpr int64_t kStaging = int64_t{4} << 20;  // pinned bytes between the host and the stream
constexpr int kMostWorkspaces = 32;             // each is larger than the one before
static_assert(Cublas::kPinned <= kStaging);

struct Context {
  int device = 0;
  cudaStream_t stream = nullptr;
  cudaEvent_t given = nullptr;  // what a stream of the caller's had been given when it was followed
  char* staging = nullptr;
  int64_t staged = 0;                      // bytes of it that the stream may still read
  bool recording = false, failed = false;  // failed: for good, whatever the device says later
  char message[512] = "";

  TensorOps tensor_ops;
  Cublas cublas;
  void* workspaces[kMostWorkspaces] = {};  // the last is in use; recorded work may hold the others
  int workspace_count = 0;
  int64_t workspace_bytes = 0;
};

namespace {

// The caller's own current device comes back when a call is over.
class OnDevice {
 public:
  explicit OnDevice(const Context* c) {
    cudaGetDevice(&before_);
    if (before_ != c->device) cudaSetDevice(c->device);
    device_ = c->device;
  }
  ~OnDevice() {
    if (before_ != device_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0, device_ = 0;
};

Status check(Context* c, cudaError_t error, const char* what) {
  if (error == cudaSuccess) return Status::ok;
  std::snprintf(c->message, sizeof c->message, "%s: %s (%s)", what, cudaGetErrorString(error),
                cudaGetErrorName(error));
  cudaGetLastError();  // so that it is not found again by whoever looks next
  c->failed = true;
  return Status::failed;
}

int32_t device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Status open(int32_t device, const char* cublas, Context** context) {
  Context* c = *context = new (std::nothrow) Context;
  if (!c) return Status::out_of_memory;
  c->device = device;
  int before = 0;
  cudaGetDevice(&before);
  Status status = check(c, cudaSetDevice(device), "opening the device");
  if (status == Status::ok)
    status = check(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "a stream");
  if (status == Status::ok)
    status = check(c, cudaEventCreateWithFlags(&c->given, cudaEventDisableTiming), "an event");
  if (status == Status::ok)
    status = check(c,
                   cudaHostAlloc(reinterpret_cast<void**>(&c->staging), size_t(kStaging),
                                 cudaHostAllocDefault),
                   "pinned memory");
  if (status == Status::ok) status = check(c, c->tensor_ops.prepare(), "loading the kernels");
  if (status == Status::ok)
    status = check(c, c->cublas.open(cublas, c->stream, c->staging), "opening cuBLASLt");
  cudaSetDevice(before);
  return status;
}

void close(Context* c) {
  if (!c) return;
  const OnDevice on(c);
  if (c->stream) cudaStreamSynchronize(c->stream);
  for (int i = 0; i < c->workspace_count; ++i) cudaFree(c->workspaces[i]);
  if (c->staging) cudaFreeHost(c->staging);
  if (c->given) cudaEventDestroy(c->given);
  if (c->stream) cudaStreamDestroy(c->stream);
  delete c;
}

const char* message(const Context* c) { return c->message; }
bool has_fp8(const Context* c) { return c->tensor_ops.has_fp8(); }
const char* cublas(const Context* c) { return c->cublas.about(); }

Status allocate(Context* c, int64_t bytes, void** memory) {
  const OnDevice on(c);
  *memory = nullptr;
  const cudaError_t error = cudaMalloc(memory, size_t(std::max<int64_t>(bytes, 1)));
  if (error == cudaErrorMemoryAllocation) {
    size_t free = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&free, &total);
    std::snprintf(c->message, sizeof c->message,
                  "out of memory: expected %lld MiB, got %lld of %lld MiB free",
                  static_cast<long long>(bytes >> 20), static_cast<long long>(free >> 20),
                  static_cast<long long>(total >> 20));
    return Status::out_of_memory;
  }
  if (error != cudaSuccess) return check(c, error, "allocating");
  const Status status =
      check(c, cudaMemsetAsync(*memory, 0, size_t(bytes), c->stream), "clearing memory");
  if (status != Status::ok) return status;
  return check(c, cudaStreamSynchronize(c->stream), "clearing memory");  // other streams may use it
}

void release(Context* c, void* memory) {
  const OnDevice on(c);
  cudaFree(memory);  // waits for what still uses it
}

Status finish(Context* c) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  c->staged = 0;
  return check(c, cudaStreamSynchronize(c->stream), "waiting for the device");
}

Status upload(Context* c, void* device, const void* host, int64_t bytes) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  for (int64_t done = 0; done < bytes;) {
    if (c->staged == kStaging)
      if (const Status status = finish(c); status != Status::ok) return status;
    const int64_t part = std::min(bytes - done, kStaging - c->staged);
    std::memcpy(c->staging + c->staged, static_cast<const char*>(host) + done, size_t(part));
    const cudaError_t error =
        cudaMemcpyAsync(static_cast<char*>(device) + done, c->staging + c->staged, size_t(part),
                        cudaMemcpyHostToDevice, c->stream);
    if (error != cudaSuccess) return check(c, error, "upload");
    c->staged += part, done += part;
  }
  return Status::ok;
}

Status download(Context* c, void* host, const void* device, int64_t bytes) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  for (int64_t done = 0; done < bytes;) {
    if (c->staged == kStaging)
      if (const Status status = finish(c); status != Status::ok) return status;
    const int64_t part = std::min(bytes - done, kStaging - c->staged);
    const char* from = c->staging + c->staged;
    const cudaError_t error =
        cudaMemcpyAsync(c->staging + c->staged, static_cast<const char*>(device) + done,
                        size_t(part), cudaMemcpyDeviceToHost, c->stream);
    if (error != cudaSuccess) return check(c, error, "download");
    if (const Status status = finish(c); status != Status::ok) return status;
    std::memcpy(static_cast<char*>(host) + done, from, size_t(part));
    done += part;
  }
  return Status::ok;
}

Status copy(Context* c, void* to, const void* from, int64_t bytes) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  return check(c, cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyDeviceToDevice, c->stream),
               "a copy");
}

// A stream that is being recorded would draw this one into what it records.
Status follow(Context* c, uint64_t stream) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  const cudaStream_t theirs = reinterpret_cast<cudaStream_t>(stream);
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cudaError_t error = cudaStreamIsCapturing(theirs, &capture);
  if (error == cudaSuccess && capture != cudaStreamCaptureStatusNone)
    error = cudaErrorStreamCaptureUnsupported;
  if (error == cudaSuccess) error = cudaEventRecord(c->given, theirs);
  if (error == cudaErrorInvalidResourceHandle || error == cudaErrorInvalidValue ||
      error == cudaErrorStreamCaptureUnsupported || error == cudaErrorStreamCaptureImplicit) {
    std::snprintf(c->message, sizeof c->message,
                  "stream: expected one of this device that is not being captured, got one with "
                  "%s (%s)",
                  cudaGetErrorString(error), cudaGetErrorName(error));
    cudaGetLastError();
    return Status::refused;
  }
  if (error == cudaSuccess) error = cudaStreamWaitEvent(c->stream, c->given, 0);
  return check(c, error, "following a stream");
}

Status fetch(Context* c, void* host, const void* device, int64_t bytes) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  const cudaError_t error =
      cudaMemcpyAsync(host, device, size_t(bytes), cudaMemcpyDeviceToHost, c->stream);
  if (error != cudaSuccess) return check(c, error, "a download");
  return check(c, cudaStreamSynchronize(c->stream), "a download");
}

Status begin(Context* c) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  c->recording = true;
  return check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "recording");
}

Status end(Context* c, Graph** graph) {
  const OnDevice on(c);
  *graph = nullptr;
  c->recording = false;
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t ready = nullptr;
  Status status = check(c, cudaStreamEndCapture(c->stream, &recorded), "recording");
  if (status == Status::ok)
    status = check(c, cudaGraphInstantiate(&ready, recorded, 0), "preparing what was recorded");
  if (status == Status::ok)
    status = check(c, cudaGraphUpload(ready, c->stream), "preparing what was recorded");
  if (recorded) cudaGraphDestroy(recorded);
  if (status == Status::ok) *graph = reinterpret_cast<Graph*>(ready);
  return status;
}

Status launch(Context* c, Graph* graph) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  return check(c, cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(graph), c->stream), "a step");
}

void release_graph(Context* c, Graph* graph) {
  const OnDevice on(c);
  cudaStreamSynchronize(c->stream);
  cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph));
}

// Workspace of at least `bytes`. It grows only while nothing is recorded: work runs once before it
// is recorded, and by then it has all it needs.
Status workspace(Context* c, int64_t bytes, void** memory) {
  if (bytes > c->workspace_bytes) {
    if (c->recording || c->workspace_count == kMostWorkspaces)
      return check(c, cudaErrorMemoryAllocation, "workspace");
    bytes = std::max(bytes, 2 * c->workspace_bytes);
    const Status status = allocate(c, bytes, &c->workspaces[c->workspace_count]);
    if (status != Status::ok) return status;
    c->workspace_bytes = bytes;
    ++c->workspace_count;
  }
  *memory = c->workspace_count ? c->workspaces[c->workspace_count - 1] : nullptr;
  return Status::ok;
}

// One of the tensor ops, with `bytes` of workspace.
template <class Args>
Status run_tensor_op(Context* c, const Args* a, int64_t bytes,
                     cudaError_t (TensorOps::*op)(const Args&, void*, cudaStream_t) const,
                     const char* what) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  void* memory;
  const Status status = workspace(c, bytes, &memory);
  if (status != Status::ok) return status;
  return check(c, (c->tensor_ops.*op)(*a, memory, c->stream), what);
}

Status matmul(Context* c, const MatmulArgs* a) {
  if (c->failed) return Status::failed;
  {
    const OnDevice on(c);
    const cudaError_t error = c->cublas.matmul(*a, c->stream);
    if (error != cudaErrorNotSupported) return check(c, error, c->cublas.problem());
  }
  const int64_t bytes = c->tensor_ops.matmul_workspace(a->rows, a->n, a->k);
  return run_tensor_op(c, a, bytes, &TensorOps::matmul, "matmul");
}

Status quantized_matmul(Context* c, const MatmulArgs* a) {
  const int64_t bytes = c->tensor_ops.quantized_matmul_workspace(a->rows, a->n, a->k);
  return run_tensor_op(c, a, bytes, &TensorOps::quantized_matmul, "matmul in e4m3");
}

Status attention(Context* c, const AttentionArgs* a) {
  const int64_t bytes = c->tensor_ops.attention_workspace(*a);
  return run_tensor_op(c, a, bytes, &TensorOps::attention, "attention");
}

template <auto kOp, class Args>
Status run(Context* c, const Args* a) {
  if (c->failed) return Status::failed;
  const OnDevice on(c);
  return check(c, kOp(*a, c->stream), "a kernel");
}

const Api kTable = {
    .abi = kAbi,
    .device_count = device_count,
    .open = open,
    .close = close,
    .message = message,
    .has_fp8 = has_fp8,
    .cublas = cublas,
    .allocate = allocate,
    .release = release,
    .upload = upload,
    .download = download,
    .finish = finish,
    .copy = copy,
    .follow = follow,
    .fetch = fetch,
    .begin = begin,
    .end = end,
    .launch = launch,
    .release_graph = release_graph,
    .matmul = matmul,
    .quantized_matmul = quantized_matmul,
    .epilogue = run<cuda::epilogue, EpilogueArgs>,
    .norm_modulate = run<cuda::norm_modulate, NormModulateArgs>,
    .qkv_split = run<cuda::qkv_split, QkvSplitArgs>,
    .gather = run<cuda::gather, GatherArgs>,
    .attention = attention,
    .sampler = run<cuda::sampler, SamplerArgs>,
    .patchify = run<cuda::patchify, PatchifyArgs>,
    .unpatchify = run<cuda::unpatchify, UnpatchifyArgs>,
    .unfold = run<cuda::unfold, UnfoldArgs>,
    .state_load = run<cuda::state_load, StateCopyArgs>,
    .state_store = run<cuda::state_store, StateCopyArgs>,
    .ray_patches = run<cuda::ray_patches, RayPatchesArgs>,
    .time_attention = run<cuda::time_attention, TimeAttentionArgs>,
    .condition = run<cuda::condition, ConditionArgs>,
    .save_frame = run<cuda::save_frame, SaveFrameArgs>,
    .load_frame = run<cuda::load_frame, LoadFrameArgs>,
    .group = run<cuda::group, GroupArgs>,
    .ungroup = run<cuda::ungroup, UngroupArgs>,
};

}  // namespace
}  // namespace rtfm::cuda

extern "C" __attribute__((visibility("default"))) const rtfm::cuda::Api* rtfm_cuda_api(
    uint32_t abi) {
  return abi == rtfm::cuda::kAbi ? &rtfm::cuda::kTable : nullptr;
}
