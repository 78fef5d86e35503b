// SPDX-License-Identifier: Apache-2.0
// What one SIMD tier provides: every op cut into independent tasks, and the layouts it reads.
#pragma once

#include "csrc/backend.h"

namespace rtfm::cpu {

template <class Args>
struct Kernel {
  int64_t (*tasks)(const Args&, int threads);  // how many independent pieces
  void (*run)(const Args&, int64_t task, int64_t tasks);
};

// Rows of x for a matmul in int8.
struct QuantizeArgs {
  const void* x;  // operand [rows, cols]
  void* q;        // [rows] of quantized_stride(cols) bytes
  int64_t x_stride, rows, cols;
};

struct Kernels {
  const char* name;
  DType operand, weights;
  int64_t row_padding;  // rows of an operand are allocated in multiples of this

  int64_t (*weight_bytes)(int64_t n, int64_t k, DType stored);
  int64_t (*query_bytes)(int64_t heads, int64_t tokens, int64_t dim);
  int64_t (*slot_bytes)(int64_t heads, int64_t tokens, int64_t dim);
  void (*pack_weight)(const float* w, int64_t n, int64_t k, DType stored, void* packed);

  // Where weights are int8: what x becomes before a matmul, whose x and x_stride are then these.
  int64_t (*quantized_stride)(int64_t cols);
  Kernel<QuantizeArgs> quantize;
  Kernel<MatmulArgs> matmul;
  Kernel<NormModulateArgs> norm_modulate;
  Kernel<QkvSplitArgs> qkv_split;
  Kernel<GatherArgs> gather;
  Kernel<AttentionArgs> attention;
  Kernel<SamplerArgs> sampler;
  Kernel<PatchifyArgs> patchify;
  Kernel<UnpatchifyArgs> unpatchify;
  int64_t (*kernel_bytes)(int64_t n, int64_t k);
  void (*pack_kernel)(const float* w, int64_t n, int64_t k, void* packed);
  Kernel<ConvolutionArgs> convolution;
  Kernel<RayPatchesArgs> ray_patches;
  Kernel<TimeAttentionArgs> time_attention;
  Kernel<ConditionArgs> condition;
  Kernel<SaveFrameArgs> save_frame;
  Kernel<LoadFrameArgs> load_frame;
  Kernel<GroupArgs> group;
  Kernel<UngroupArgs> ungroup;
};

// Each tier is a namespace, compiled from the same sources with its own flags (CMakeLists.txt), so
// no inline function of one tier can be linked into another.
namespace portable {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Kernels kernels;
}
namespace amx {
extern const Kernels kernels;
}
namespace amx_int8 {
extern const Kernels kernels;
}
namespace vnni {
extern const Kernels kernels;
}
namespace avx_vnni {
extern const Kernels kernels;
}
namespace sdot {
extern const Kernels kernels;
}

}  // namespace rtfm::cpu
