// SPDX-License-Identifier: Apache-2.0
// The table of one tier.
#include "csrc/cpu/attention.h"
#include "csrc/cpu/kernels.h"
#include "csrc/cpu/matmul.h"
#include "csrc/cpu/norm.h"
#include "csrc/cpu/pointwise.h"

#define RTFM_STRING(x) #x
#define RTFM_NAME(x) RTFM_STRING(x)

namespace rtfm::cpu::RTFM_TIER {

extern const Kernels kernels;
const Kernels kernels = {
    .name = RTFM_NAME(RTFM_TIER),
#ifdef RTFM_BF16
    .operand = DType::bf16,
    .row_padding = 32,
#else
    .operand = DType::f32,
    .row_padding = 1,
#endif
    .weight_bytes = weight_bytes,
    .query_bytes = query_bytes,
    .slot_bytes = slot_bytes,
    .pack_weight = pack_weight,
    .matmul = {matmul_tasks, matmul},
    .norm_modulate = {norm_modulate_tasks, norm_modulate},
    .qkv_split = {qkv_split_tasks, qkv_split},
    .gather = {gather_tasks, gather},
    .attention = {attention_tasks, attention},
    .sampler = {sampler_tasks, sampler},
    .patchify = {patchify_tasks, patchify},
    .unpatchify = {unpatchify_tasks, unpatchify},
};

}  // namespace rtfm::cpu::RTFM_TIER
