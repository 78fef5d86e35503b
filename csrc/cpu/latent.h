// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "csrc/backend.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t condition_tasks(const ConditionArgs& a, int threads);
void condition(const ConditionArgs& a, int64_t task, int64_t tasks);
int64_t save_frame_tasks(const SaveFrameArgs& a, int threads);
void save_frame(const SaveFrameArgs& a, int64_t task, int64_t tasks);
int64_t load_frame_tasks(const LoadFrameArgs& a, int threads);
void load_frame(const LoadFrameArgs& a, int64_t task, int64_t tasks);
int64_t group_tasks(const GroupArgs& a, int threads);
void group(const GroupArgs& a, int64_t task, int64_t tasks);
int64_t ungroup_tasks(const UngroupArgs& a, int threads);
void ungroup(const UngroupArgs& a, int64_t task, int64_t tasks);

}  // namespace rtfm::cpu::RTFM_TIER
