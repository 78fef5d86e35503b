// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "csrc/backend.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t attention_tasks(const AttentionArgs& a, int threads);
void attention(const AttentionArgs& a, int64_t task, int64_t tasks);

}  // namespace rtfm::cpu::RTFM_TIER
