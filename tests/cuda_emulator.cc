// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda_emulator.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "csrc/cuda/loader.h"
#include "tests/cuda_emulator_ops.h"

namespace rtfm::cuda {

// Calls with copies of their arguments, in order.
class Commands {
 public:
  // args, then `extra` bytes
  void add(void (*call)(const void*), const void* args, size_t size, const void* extra,
           size_t extra_size) {
    const Header header{call, (size + extra_size + 15) / 16 * 16};
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof header + header.size);
    std::memcpy(&bytes_[at], &header, sizeof header);
    std::memcpy(&bytes_[at + sizeof header], args, size);
    if (extra_size) std::memcpy(&bytes_[at + sizeof header + size], extra, extra_size);
  }
  void run() const {
    for (size_t at = 0; at < bytes_.size();) {
      Header header;
      std::memcpy(&header, &bytes_[at], sizeof header);
      header.call(&bytes_[at + sizeof header]);
      at += sizeof header + header.size;
    }
  }
  void clear() { bytes_.clear(); }
  bool empty() const { return bytes_.empty(); }

 private:
  struct alignas(16) Header {
    void (*call)(const void*);
    size_t size;
  };
  std::vector<char> bytes_;
};

struct Graph {
  Commands commands;
};

struct Context {
  Commands waiting;
  Graph* recording = nullptr;
  bool failed = false;
  char message[256] = "";
};

namespace {

using rtfm::testing::cuda_emulation;

std::mutex memory_mutex;
std::map<uintptr_t, int64_t> blocks;  // what is allocated: start and bytes
int64_t allocated = 0;

using testing::Range;

bool on_device(const Range& range) {
  const std::lock_guard lock(memory_mutex);
  const uintptr_t at = reinterpret_cast<uintptr_t>(range.start);
  const auto after = blocks.upper_bound(at);
  if (after == blocks.begin()) return false;
  const auto& [start, bytes] = *std::prev(after);
  return at + uintptr_t(range.bytes) <= start + uintptr_t(bytes);
}

Status fail(Context* c, const std::string& message) {
  std::snprintf(c->message, sizeof c->message, "%s", message.c_str());
  c->failed = true;
  return Status::failed;
}

// Not while recording, not after a failure.
Status may(Context* c, const char* what) {
  if (c->failed) return Status::failed;
  return c->recording ? fail(c, std::string(what) + " while recording") : Status::ok;
}

// Counts down to the failure that a test asked for.
Status still_works(Context* c) {
  if (c->failed) return Status::failed;
  int64_t& left = cuda_emulation().launches_left;
  return left >= 0 && left-- == 0 ? fail(c, "an emulated failure") : Status::ok;
}

int32_t device_count() { return 1; }

Status open(int32_t, const char*, Context** context) {
  *context = new Context;
  return Status::ok;
}
void close(Context* c) { delete c; }
const char* message(const Context* c) { return c->message; }
bool has_fp8(const Context*) { return cuda_emulation().fp8; }

Status allocate(Context* c, int64_t bytes, void** memory) {
  if (const Status status = may(c, "allocate"); status != Status::ok) return status;
  const std::lock_guard lock(memory_mutex);
  if (allocated + bytes > cuda_emulation().memory) {
    std::snprintf(c->message, sizeof c->message, "out of memory");
    return Status::out_of_memory;
  }
  char* start = static_cast<char*>(std::calloc(size_t(bytes) + 256, 1));
  *memory = start + (256 - reinterpret_cast<uintptr_t>(start) % 256);
  static_cast<char**>(*memory)[-1] = start;
  blocks[reinterpret_cast<uintptr_t>(*memory)] = bytes;
  allocated += bytes;
  return Status::ok;
}

Status finish(Context* c) {
  if (const Status status = may(c, "finish"); status != Status::ok) return status;
  try {
    c->waiting.run();
  } catch (const std::exception& error) {
    c->waiting.clear();
    return fail(c, error.what());
  }
  c->waiting.clear();
  if (cuda_emulation().on_wait) cuda_emulation().on_wait();
  return Status::ok;
}

void release(Context* c, void* memory) {
  if (!c->failed && !c->waiting.empty()) finish(c);
  const std::lock_guard lock(memory_mutex);
  const auto block = blocks.find(reinterpret_cast<uintptr_t>(memory));
  allocated -= block->second;
  blocks.erase(block);
  std::free(static_cast<char**>(memory)[-1]);
}

struct Copy {
  void* to;
  int64_t bytes;
};

Status upload(Context* c, void* device, const void* host, int64_t bytes) {
  if (const Status status = may(c, "upload"); status != Status::ok) return status;
  if (!on_device({device, bytes})) return fail(c, "upload to what is no device memory");
  const Copy copy{device, bytes};
  c->waiting.add(
      [](const void* args) {
        const Copy* copy = static_cast<const Copy*>(args);
        std::memcpy(copy->to, copy + 1, size_t(copy->bytes));
      },
      &copy, sizeof copy, host, size_t(bytes));
  return Status::ok;
}

Status download(Context* c, void* host, const void* device, int64_t bytes) {
  if (!on_device({device, bytes})) return fail(c, "download from what is no device memory");
  if (const Status status = finish(c); status != Status::ok) return status;
  std::memcpy(host, device, size_t(bytes));
  return Status::ok;
}

struct DeviceCopy {
  void* to;
  const void* from;
  int64_t bytes;
};

Status copy(Context* c, void* to, const void* from, int64_t bytes) {
  if (const Status status = may(c, "copy"); status != Status::ok) return status;
  if (!on_device({to, bytes}) || !on_device({from, bytes}))
    return fail(c, "a copy of what is no device memory");
  const DeviceCopy args{to, from, bytes};
  c->waiting.add(
      [](const void* args) {
        const auto* copy = static_cast<const DeviceCopy*>(args);
        std::memcpy(copy->to, copy->from, size_t(copy->bytes));
      },
      &args, sizeof args, nullptr, 0);
  return Status::ok;
}

Status follow(Context* c, uint64_t stream) {
  if (const Status status = may(c, "follow"); status != Status::ok) return status;
  if (stream > 99) {
    std::snprintf(c->message, sizeof c->message, "stream: expected one of this device");
    return Status::refused;
  }
  c->waiting.add(
      [](const void* args) {
        const auto& run_stream = cuda_emulation().run_stream;
        if (run_stream) run_stream(*static_cast<const uint64_t*>(args));
      },
      &stream, sizeof stream, nullptr, 0);
  return Status::ok;
}

// As on a GPU, of what happens to be there: work that waits does not come first.
Status fetch(Context* c, void* host, const void* device, int64_t bytes) {
  if (const Status status = still_works(c); status != Status::ok) return status;
  if (!on_device({device, bytes})) return fail(c, "a fetch from what is no device memory");
  std::memcpy(host, device, size_t(bytes));
  return Status::ok;
}

Status begin(Context* c) {
  if (const Status status = may(c, "begin"); status != Status::ok) return status;
  c->recording = new Graph;
  return Status::ok;
}
Status end(Context* c, Graph** graph) {
  *graph = std::exchange(c->recording, nullptr);
  return c->failed ? Status::failed : Status::ok;
}
Status launch(Context* c, Graph* graph) {
  if (const Status status = may(c, "launch"); status != Status::ok) return status;
  if (const Status status = still_works(c); status != Status::ok) return status;
  c->waiting.add([](const void* args) { (*static_cast<Graph* const*>(args))->commands.run(); },
                 &graph, sizeof graph, nullptr, 0);
  return Status::ok;
}
void release_graph(Context* c, Graph* graph) {
  if (!c->failed) finish(c);
  delete graph;
}

template <class Args>
Status op(Context* c, const Args* a) {
  if (const Status status = still_works(c); status != Status::ok) return status;
  for (const Range& range : testing::ranges(*a))
    if (range.bytes && !on_device(range)) return fail(c, "an op on what is no device memory");
  const auto call = [](const void* args) { testing::run(*static_cast<const Args*>(args)); };
  (c->recording ? c->recording->commands : c->waiting).add(call, a, sizeof *a, nullptr, 0);
  return Status::ok;
}

Status quantized_matmul(Context* c, const MatmulArgs* a) {
  const testing::QuantizedMatmul args{*a};
  return op(c, &args);
}

Status state_load(Context* c, const StateCopyArgs* a) {
  const StateLoad args{*a};
  return op(c, &args);
}
Status state_store(Context* c, const StateCopyArgs* a) {
  const StateStore args{*a};
  return op(c, &args);
}

const Api kTable = {
    .abi = kAbi,
    .device_count = device_count,
    .open = open,
    .close = close,
    .message = message,
    .has_fp8 = has_fp8,
    .cublas = [](const Context*) { return ""; },
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
    .matmul = op<MatmulArgs>,
    .quantized_matmul = quantized_matmul,
    .epilogue = op<EpilogueArgs>,
    .norm_modulate = op<NormModulateArgs>,
    .qkv_split = op<QkvSplitArgs>,
    .gather = op<GatherArgs>,
    .attention = op<AttentionArgs>,
    .sampler = op<SamplerArgs>,
    .patchify = op<PatchifyArgs>,
    .unpatchify = op<UnpatchifyArgs>,
    .unfold = op<UnfoldArgs>,
    .state_load = state_load,
    .state_store = state_store,
    .ray_patches = op<RayPatchesArgs>,
    .time_attention = op<TimeAttentionArgs>,
    .condition = op<ConditionArgs>,
    .save_frame = op<SaveFrameArgs>,
    .load_frame = op<LoadFrameArgs>,
    .group = op<GroupArgs>,
    .ungroup = op<UngroupArgs>,
};

}  // namespace
}  // namespace rtfm::cuda

rtfm::testing::CudaEmulation& rtfm::testing::cuda_emulation() {
  static CudaEmulation emulation;
  return emulation;
}

// The linker puts this in front of rtfm::cuda::open_library in the module _testing
// (CMakeLists.txt).
namespace real {
rtfm::cuda::Library open_library(const char*) asm("__real__ZN4rtfm4cuda12open_libraryEPKc");
rtfm::cuda::Library emulated_library(const char*) asm("__wrap__ZN4rtfm4cuda12open_libraryEPKc");

// `found`, whose contexts get the cuBLASLt of the tests.
rtfm::cuda::Library with_cublas(rtfm::cuda::Library found) {
  static rtfm::cuda::Api table;
  static decltype(table.open) open;
  if (!found.api || rtfm::testing::cuda_emulation().cublas.empty()) return found;
  table = *found.api;
  open = table.open;
  table.open = [](int32_t device, const char*, rtfm::cuda::Context** context) {
    return open(device, rtfm::testing::cuda_emulation().cublas.c_str(), context);
  };
  found.api = &table;
  return found;
}

rtfm::cuda::Library emulated_library(const char* number) {
  const std::string which = number;
  if (which != "emulated" && !(which.empty() && rtfm::testing::cuda_emulation().found))
    return with_cublas(open_library(number));
  return {.api = &rtfm::cuda::kTable, .device = 0, .name = "cuda:emulated", .problem = ""};
}
}  // namespace real
