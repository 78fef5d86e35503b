// SPDX-License-Identifier: Apache-2.0
// The table of one tier.
#include "csrc/cpu/attention.h"
#include "csrc/cpu/convolution.h"
#include "csrc/cpu/kernels.h"
#include "csrc/cpu/latent.h"
#include "csrc/cpu/matmul.h"
#include "csrc/cpu/norm.h"
#include "csrc/cpu/pointwise.h"
#include "csrc/cpu/rays.h"
#include "csrc/cpu/time_attention.h"

#define RTFM_STRING(x) #x
#define RTFM_NAME(x) RTFM_STRING(x)

namespace rtfm::cpu::RTFM_TIER {

#ifdef RTFM_BF16
constexpr DType kOperand = DType::bf16;
#else
constexpr DType kOperand = DType::f32;
#endif
#ifdef __AMX_TILE__
constexpr int64_t kRowPadding = 32;
#else
constexpr int64_t kRowPadding = 1;
#endif
#ifdef RTFM_INT8
constexpr DType kWeights = DType::i8;
#else
constexpr DType kWeights = kOperand;
#endif

extern const Kernels kernels;
const Kernels kernels = {
    .name = RTFM_NAME(RTFM_TIER),
    .operand = kOperand,
    .weights = kWeights,
    .row_padding = kRowPadding,
    .weight_bytes = weight_bytes,
    .query_bytes = query_bytes,
    .slot_bytes = slot_bytes,
    .pack_weight = pack_weight,
#ifdef RTFM_INT8
    .quantized_stride = quantized_stride,
    .quantize = {quantize_tasks, quantize},
#else
    .quantized_stride = nullptr,
    .quantize = {},
#endif
    .matmul = {matmul_tasks, matmul},
    .norm_modulate = {norm_modulate_tasks, norm_modulate},
    .qkv_split = {qkv_split_tasks, qkv_split},
    .gather = {gather_tasks, gather},
    .attention = {attention_tasks, attention},
    .sampler = {sampler_tasks, sampler},
    .patchify = {patchify_tasks, patchify},
    .unpatchify = {unpatchify_tasks, unpatchify},
    .kernel_bytes = kernel_bytes,
    .pack_kernel = pack_kernel,
    .convolution = {convolution_tasks, convolution},
    .ray_patches = {ray_patches_tasks, ray_patches},
    .time_attention = {time_attention_tasks, time_attention},
    .condition = {condition_tasks, condition},
    .save_frame = {save_frame_tasks, save_frame},
    .load_frame = {load_frame_tasks, load_frame},
    .group = {group_tasks, group},
    .ungroup = {ungroup_tasks, ungroup},
};

}  // namespace rtfm::cpu::RTFM_TIER
