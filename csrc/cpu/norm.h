// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "csrc/backend.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t norm_modulate_tasks(const NormModulateArgs& a, int threads);
void norm_modulate(const NormModulateArgs& a, int64_t task, int64_t tasks);

int64_t query_bytes(int64_t heads, int64_t tokens, int64_t dim);
int64_t slot_bytes(int64_t heads, int64_t tokens, int64_t dim);
int64_t qkv_split_tasks(const QkvSplitArgs& a, int threads);
void qkv_split(const QkvSplitArgs& a, int64_t task, int64_t tasks);
int64_t gather_tasks(const GatherArgs& a, int threads);
void gather(const GatherArgs& a, int64_t task, int64_t tasks);

}  // namespace rtfm::cpu::RTFM_TIER
