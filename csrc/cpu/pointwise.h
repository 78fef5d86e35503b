// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "csrc/backend.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t sampler_tasks(const SamplerArgs& a, int threads);
void sampler(const SamplerArgs& a, int64_t task, int64_t tasks);
int64_t patchify_tasks(const PatchifyArgs& a, int threads);
void patchify(const PatchifyArgs& a, int64_t task, int64_t tasks);
int64_t unpatchify_tasks(const UnpatchifyArgs& a, int threads);
void unpatchify(const UnpatchifyArgs& a, int64_t task, int64_t tasks);

}  // namespace rtfm::cpu::RTFM_TIER
