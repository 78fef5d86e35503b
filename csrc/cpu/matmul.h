// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "csrc/backend.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t weight_bytes(int64_t n, int64_t k);
void pack_weight(const float* w, int64_t n, int64_t k, void* packed);
int64_t matmul_tasks(const MatmulArgs& a, int threads);
void matmul(const MatmulArgs& a, int64_t task, int64_t tasks);

}  // namespace rtfm::cpu::RTFM_TIER
