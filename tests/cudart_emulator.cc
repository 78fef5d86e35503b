// SPDX-License-Identifier: Apache-2.0
// A CUDA runtime in host memory, with two devices: streams that do nothing before somebody waits
// for them, events, recorded graphs. With csrc/cuda/context.cc it makes a librtfm_cuda.so whose
// kernels are the emulator's; built by test_cuda_context.py.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "csrc/cuda/cublas.h"
#include "csrc/cuda/ops.h"
#include "csrc/cuda/tensor_ops.h"
#include "tests/cuda_emulator.h"
#include "tests/cuda_emulator_ops.h"

namespace {

using Work = std::function<void()>;

struct Stream {
  int device = 0;
  bool callers = false;
  std::vector<Work> given;
  size_t done = 0;
  std::unique_ptr<std::vector<Work>> recording;  // not null: what it is given is recorded
};
struct Event {
  int device;
  std::shared_ptr<Stream> stream;
  size_t given = 0;  // to the stream when it was recorded
};

std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;
thread_local int current = 0;
std::map<void*, std::shared_ptr<Stream>> streams{{nullptr, std::make_shared<Stream>()}};
std::map<uintptr_t, size_t> device_memory, pinned_memory;  // start and bytes
int64_t events = 0, graphs = 0;
cudaError_t failure = cudaSuccess;  // of every launch from now on

bool within(const std::map<uintptr_t, size_t>& blocks, const void* start, int64_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(start);
  const auto after = blocks.upper_bound(at);
  if (after == blocks.begin()) return false;
  const auto& [first, size] = *std::prev(after);
  return at + uintptr_t(bytes) <= first + size;
}

std::shared_ptr<Stream> find(void* handle) {
  const auto found = streams.find(handle);
  return found == streams.end() ? nullptr : found->second;
}

void run_until(Stream& stream, size_t count) {
  while (stream.done < count) {
    const Work work = stream.given[stream.done++];
    work();
  }
}
void run_all() {
  for (const auto& [handle, stream] : streams) run_until(*stream, stream->given.size());
}

cudaError_t give(void* handle, Work work) {
  const Lock lock(mutex);
  if (failure != cudaSuccess) return failure;
  const std::shared_ptr<Stream> stream = find(handle);
  if (!stream || stream->device != current) return cudaErrorInvalidResourceHandle;
  (stream->recording ? *stream->recording : stream->given).push_back(std::move(work));
  return cudaSuccess;
}

// As a capture of its own thread forbids to allocate; a test may leave a caller's one behind.
bool recording() {
  for (const auto& [handle, stream] : streams)
    if (stream->recording && !stream->callers) return true;
  return false;
}

// An op on device memory, where the emulator has it.
template <class Args>
cudaError_t launch(const Args& a, cudaStream_t stream) {
  if constexpr (requires { rtfm::testing::run(a); }) {
    const Lock lock(mutex);
    for (const rtfm::testing::Range& range : rtfm::testing::ranges(a))
      if (range.bytes && !within(device_memory, range.start, range.bytes))
        return cudaErrorIllegalAddress;
    return give(stream, [a] { rtfm::testing::run(a); });
  } else {
    return cudaErrorNotSupported;
  }
}

cudaError_t take(std::map<uintptr_t, size_t>& blocks, void** memory, size_t bytes) {
  const Lock lock(mutex);
  if (recording()) return cudaErrorStreamCaptureUnsupported;
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*memory, 0xab, bytes);
  blocks[reinterpret_cast<uintptr_t>(*memory)] = bytes;
  return cudaSuccess;
}
cudaError_t drop(std::map<uintptr_t, size_t>& blocks, void* memory) {
  const Lock lock(mutex);
  run_all();
  if (!blocks.erase(reinterpret_cast<uintptr_t>(memory))) return cudaErrorInvalidValue;
  std::free(memory);
  return cudaSuccess;
}

}  // namespace

rtfm::testing::CudaEmulation& rtfm::testing::cuda_emulation() {
  static CudaEmulation emulation;
  return emulation;
}

// ---- The ops of ops.h, one line each, and those of tensor_ops.h.

namespace rtfm::cuda {

#define OP(name, Args) \
  cudaError_t name(const Args& a, cudaStream_t stream) { return launch(a, stream); }
#include "ops.inc"

constexpr int64_t kWorkspace = 1 << 20;

TensorOps::~TensorOps() = default;
cudaError_t TensorOps::prepare() { return cudaSuccess; }
bool TensorOps::has_fp8() const { return true; }
int64_t TensorOps::attention_workspace(const AttentionArgs&) const { return kWorkspace; }
int64_t TensorOps::matmul_workspace(int64_t rows, int64_t n, int64_t) const { return rows * n; }
int64_t TensorOps::quantized_matmul_workspace(int64_t rows, int64_t n, int64_t) const {
  return rows * n;
}
cudaError_t TensorOps::attention(const AttentionArgs& a, void* w, cudaStream_t stream) const {
  return within(device_memory, w, kWorkspace) ? launch(a, stream) : cudaErrorIllegalAddress;
}
cudaError_t TensorOps::matmul(const MatmulArgs& a, void* w, cudaStream_t stream) const {
  return within(device_memory, w, a.rows * a.n) ? launch(a, stream) : cudaErrorIllegalAddress;
}
cudaError_t TensorOps::quantized_matmul(const MatmulArgs& a, void* w, cudaStream_t stream) const {
  if (!within(device_memory, w, a.rows * a.n)) return cudaErrorIllegalAddress;
  return launch(testing::QuantizedMatmul{a}, stream);
}

}  // namespace rtfm::cuda

extern "C" {

// ---- Devices, memory.

cudaError_t cudaGetDeviceCount(int* count) { return *count = 2, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = current, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return current = device, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorEmulated"; }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorStreamCaptureUnsupported ? "captured" : "emulated";
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return *free = *total = size_t{1} << 33, cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) { return take(device_memory, memory, bytes); }
cudaError_t cudaFree(void* memory) { return drop(device_memory, memory); }
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  return take(pinned_memory, memory, bytes);
}
cudaError_t cudaFreeHost(void* memory) { return drop(pinned_memory, memory); }

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (!within(device_memory, memory, int64_t(bytes))) return cudaErrorInvalidValue;
  return give(stream, [=] { std::memset(memory, value, bytes); });
}
// To the device from pinned memory only: all else would not be asynchronous. To the host from there
// into any memory, at once where it is not pinned.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Lock lock(mutex);
  const int64_t size = int64_t(bytes);
  const auto& source = kind == cudaMemcpyHostToDevice ? pinned_memory : device_memory;
  if (!within(source, from, size) ||
      within(device_memory, to, size) == (kind == cudaMemcpyDeviceToHost))
    return cudaErrorInvalidValue;
  const cudaError_t error = give(stream, [=] { std::memcpy(to, from, bytes); });
  if (error != cudaSuccess || kind != cudaMemcpyDeviceToHost || within(pinned_memory, to, size))
    return error;
  return cudaStreamSynchronize(stream);
}

// ---- Streams, events.

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const Lock lock(mutex);
  if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
  auto made = std::make_shared<Stream>();
  made->device = current;
  *stream = reinterpret_cast<cudaStream_t>(made.get());
  streams[made.get()] = made;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(mutex);
  return streams.erase(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  const Lock lock(mutex);
  const std::shared_ptr<Stream> stream = find(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (stream->recording) return cudaErrorStreamCaptureUnsupported;
  run_until(*stream, stream->given.size());
  return failure;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  const Lock lock(mutex);
  const std::shared_ptr<Stream> stream = find(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  *status = stream->recording ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  const Lock lock(mutex);
  *event = reinterpret_cast<cudaEvent_t>(new Event{current, nullptr});
  ++events;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(mutex);
  delete reinterpret_cast<Event*>(event);
  --events;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t of) {
  const Lock lock(mutex);
  Event& event = *reinterpret_cast<Event*>(handle);
  const std::shared_ptr<Stream> stream = find(of);
  if (!stream || stream->device != event.device) return cudaErrorInvalidResourceHandle;
  event.stream = stream, event.given = stream->given.size();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  const Event e = *reinterpret_cast<Event*>(event);
  return give(handle, [e] { run_until(*e.stream, e.given); });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return give(stream, [=] { function(data); });
}

// ---- Graphs: one that is recorded and one that is ready are the same list of work.

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode) {
  const Lock lock(mutex);
  const std::shared_ptr<Stream> stream = find(handle);
  stream->recording = std::make_unique<std::vector<Work>>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  const Lock lock(mutex);
  *graph = reinterpret_cast<cudaGraph_t>(find(handle)->recording.release());
  ++graphs;
  return failure;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  const Lock lock(mutex);
  *ready = reinterpret_cast<cudaGraphExec_t>(
      new std::vector<Work>(*reinterpret_cast<std::vector<Work>*>(graph)));
  ++graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph));
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  const Lock lock(mutex);
  delete reinterpret_cast<std::vector<Work>*>(graph);
  --graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  return give(stream, [graph] {
    for (const Work& work : *reinterpret_cast<std::vector<Work>*>(graph)) work();
  });
}

// ---- What tests do beside: a stream of the caller's, and a device that fails.

void* emulated_stream(int device) {
  const int before = current;
  current = device;
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  find(stream)->callers = true;
  current = before;
  return stream;
}
void emulated_read(void* stream, const void* from, int64_t bytes, void* to) {
  find(stream)->given.push_back([=] { std::memcpy(to, from, size_t(bytes)); });
}
void emulated_capture(void* stream) { cudaStreamBeginCapture(cudaStream_t(stream), {}); }
void emulated_fail(int error) { failure = cudaError_t(error); }
bool emulated_device_memory(const void* start, int64_t bytes) {
  const Lock lock(mutex);
  return within(device_memory, start, bytes);
}

// The form of a matmul whose matrices start `offset` bytes off a step of 256.
int emulated_form(int epilogue, bool bias, bool gate, int64_t n, int64_t k, int64_t x_stride,
                  int64_t y_stride, uint64_t offset) {
  const void* at = reinterpret_cast<const void*>(256 + offset);
  return int(rtfm::cuda::form_of({.x = at,
                                  .w = at,
                                  .bias = bias ? static_cast<const float*>(at) : nullptr,
                                  .gate = gate ? static_cast<const float*>(at) : nullptr,
                                  .y = const_cast<void*>(at),
                                  .x_stride = x_stride,
                                  .y_stride = y_stride,
                                  .rows = 5,
                                  .n = n,
                                  .k = k,
                                  .epilogue = rtfm::Epilogue(epilogue)}));
}

// Everything that somebody has taken and not given back.
int64_t emulated_left() {
  return int64_t(streams.size() - 1 + device_memory.size() + pinned_memory.size()) + events +
         graphs;
}

}  // extern "C"
