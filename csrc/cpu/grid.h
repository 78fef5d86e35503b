// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "csrc/backend.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t grid_tasks(const GridArgs& a, int threads);
void to_grid(const GridArgs& a, int64_t task, int64_t tasks);
void from_grid(const GridArgs& a, int64_t task, int64_t tasks);

}  // namespace rtfm::cpu::RTFM_TIER
