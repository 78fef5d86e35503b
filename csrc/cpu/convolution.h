// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "csrc/backend.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t kernel_bytes(int64_t n, int64_t k);
void pack_kernel(const float* w, int64_t n, int64_t k, void* packed);
int64_t convolution_tasks(const ConvolutionArgs& a, int threads);
void convolution(const ConvolutionArgs& a, int64_t task, int64_t tasks);

}  // namespace rtfm::cpu::RTFM_TIER
