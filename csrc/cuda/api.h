// SPDX-License-Identifier: Apache-2.0
// What librtfm_cuda.so offers to the runtime: one C table over plain data, so that the two may come
// from different compilers. No CUDA header here.
#pragma once

#include "csrc/backend.h"

namespace rtfm::cuda {

enum class Status : int32_t {
  ok,
  out_of_memory,  // nothing happened
  refused,        // an argument of the caller's; nothing happened
  failed          // the context is of no use any more
};

// The epilogues that come with a matmul; the others take its product from memory.
constexpr bool in_matmul(Epilogue e) { return e <= Epilogue::silu; }

// y = what the epilogue makes of r.
struct EpilogueArgs {
  const float* r;        // [rows, n], rows on 16 bytes and padded to 4 values
  const void* residual;  // [rows, n] operand, residual_relu only
  void* y;               // [rows, n]
  int64_t r_stride, residual_stride, y_stride;
  int64_t rows, n;
  Epilogue epilogue;
};

// seen[i] = what the kernel of a convolution sees at place first + i, in the order of its weights,
// then zeros.
struct UnfoldArgs {
  ConvolutionArgs of;
  int64_t cols;  // of the result
  void* seen;    // [places, stride] operand, on 16 bytes
  int64_t first, places, stride;
};

struct Context;  // a device, a stream, staging memory
struct Graph;    // recorded work

// Pointers of Args are to device memory. Everything happens in the order of the calls; only
// download and finish wait. Between begin and end, ops are recorded instead of done.
struct Api {
  uint32_t abi;
  int32_t (*device_count)();
  // cublas: the path of a cuBLASLt, or "". The context is made even when it is of no use, to hold
  // the message; it wants closing.
  Status (*open)(int32_t device, const char* cublas, Context** context);
  void (*close)(Context*);
  const char* (*message)(const Context*);  // of the last call that was not ok
  bool (*has_fp8)(const Context*);         // whether quantized_matmul is there
  const char* (*cublas)(const Context*);   // as Backend::cublas

  Status (*allocate)(Context*, int64_t bytes, void** memory);  // zero-filled, on 256 bytes
  void (*release)(Context*, void* memory);
  Status (*upload)(Context*, void* device, const void* host, int64_t bytes);
  Status (*download)(Context*, void* host, const void* device, int64_t bytes);
  Status (*finish)(Context*);
  Status (*copy)(Context*, void* to, const void* from, int64_t bytes);
  Status (*follow)(Context*, uint64_t stream);  // waits for what that stream was given before
  Status (*fetch)(Context*, void* host, const void* device, int64_t bytes);  // from any thread

  Status (*begin)(Context*);
  Status (*end)(Context*, Graph** graph);  // null where recording failed
  Status (*launch)(Context*, Graph*);
  void (*release_graph)(Context*, Graph*);

  Status (*matmul)(Context*, const MatmulArgs*);            // of an epilogue that is in_matmul
  Status (*quantized_matmul)(Context*, const MatmulArgs*);  // w: e4m3, and so becomes x
  Status (*epilogue)(Context*, const EpilogueArgs*);        // ... that is not, or store
  Status (*norm_modulate)(Context*, const NormModulateArgs*);
  Status (*qkv_split)(Context*, const QkvSplitArgs*);
  Status (*gather)(Context*, const GatherArgs*);
  Status (*attention)(Context*, const AttentionArgs*);
  Status (*sampler)(Context*, const SamplerArgs*);
  Status (*patchify)(Context*, const PatchifyArgs*);
  Status (*unpatchify)(Context*, const UnpatchifyArgs*);

  Status (*unfold)(Context*, const UnfoldArgs*);
  Status (*state_load)(Context*, const StateCopyArgs*);
  Status (*state_store)(Context*, const StateCopyArgs*);
  Status (*ray_patches)(Context*, const RayPatchesArgs*);
  Status (*time_attention)(Context*, const TimeAttentionArgs*);
  Status (*condition)(Context*, const ConditionArgs*);
  Status (*save_frame)(Context*, const SaveFrameArgs*);
  Status (*load_frame)(Context*, const LoadFrameArgs*);
  Status (*group)(Context*, const GroupArgs*);
  Status (*ungroup)(Context*, const UngroupArgs*);
};

// Both sides are built together; sizes tell when they were not.
constexpr uint32_t kAbi = uint32_t(
    0x0100'0000 + sizeof(Api) + sizeof(StepInputs) + sizeof(MatmulArgs) + sizeof(NormModulateArgs) +
    sizeof(QkvSplitArgs) + sizeof(GatherArgs) + sizeof(AttentionArgs) + sizeof(SamplerArgs) +
    sizeof(PatchifyArgs) + sizeof(UnpatchifyArgs) + sizeof(EpilogueArgs) + sizeof(UnfoldArgs) +
    sizeof(StateCopyArgs) + sizeof(RayPatchesArgs) + sizeof(TimeAttentionArgs) +
    sizeof(ConditionArgs) + sizeof(SaveFrameArgs) + sizeof(LoadFrameArgs) + sizeof(GroupArgs) +
    sizeof(UngroupArgs));

// The one symbol of librtfm_cuda.so: its table, or null if it is another one.
using ApiFunction = const Api* (*)(uint32_t abi);

}  // namespace rtfm::cuda
