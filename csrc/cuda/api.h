// SPDX-License-Identifier: Apache-2.0
// What librtfm_cuda.so offers to the runtime: one C table over plain data, so that the two may come
// from different compilers. No CUDA header here.
#pragma once

#include "csrc/backend.h"

namespace rtfm::cuda {

enum class Status : int32_t {
  ok,
  out_of_memory,  // nothing happened
  failed          // the context is of no use any more
};

struct Context;  // a device, a stream, staging memory
struct Graph;    // recorded work

// Pointers of Args are to device memory. Everything happens in the order of the calls; only
// download and finish wait. Between begin and end, ops are recorded instead of done.
struct Api {
  uint32_t abi;
  int32_t (*device_count)();
  // The context is made even when it is of no use, to hold the message; it wants closing.
  Status (*open)(int32_t device, Context** context);
  void (*close)(Context*);
  const char* (*message)(const Context*);  // of the last call that was not ok
  bool (*has_fp8)(const Context*);         // whether quantized_matmul is there

  Status (*allocate)(Context*, int64_t bytes, void** memory);  // zero-filled, on 256 bytes
  void (*release)(Context*, void* memory);
  Status (*upload)(Context*, void* device, const void* host, int64_t bytes);
  Status (*download)(Context*, void* host, const void* device, int64_t bytes);
  Status (*finish)(Context*);

  Status (*begin)(Context*);
  Status (*end)(Context*, Graph** graph);  // null where recording failed
  Status (*launch)(Context*, Graph*);
  void (*release_graph)(Context*, Graph*);

  Status (*matmul)(Context*, const MatmulArgs*);
  Status (*quantized_matmul)(Context*, const MatmulArgs*);  // w: e4m3, and so becomes x
  Status (*norm_modulate)(Context*, const NormModulateArgs*);
  Status (*qkv_split)(Context*, const QkvSplitArgs*);
  Status (*gather)(Context*, const GatherArgs*);
  Status (*attention)(Context*, const AttentionArgs*);
  Status (*sampler)(Context*, const SamplerArgs*);
  Status (*patchify)(Context*, const PatchifyArgs*);
  Status (*unpatchify)(Context*, const UnpatchifyArgs*);
};

// Both sides are built together; sizes tell when they were not.
constexpr uint32_t kAbi = uint32_t(
    0x0100'0000 + sizeof(Api) + sizeof(StepInputs) + sizeof(MatmulArgs) + sizeof(NormModulateArgs) +
    sizeof(QkvSplitArgs) + sizeof(GatherArgs) + sizeof(AttentionArgs) + sizeof(SamplerArgs) +
    sizeof(PatchifyArgs) + sizeof(UnpatchifyArgs));

// The one symbol of librtfm_cuda.so: its table, or null if it is another one.
using ApiFunction = const Api* (*)(uint32_t abi);

}  // namespace rtfm::cuda
