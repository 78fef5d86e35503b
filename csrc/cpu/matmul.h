// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "csrc/cpu/kernels.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t weight_bytes(int64_t n, int64_t k, DType stored);
void pack_weight(const float* w, int64_t n, int64_t k, DType stored, void* packed);
int64_t quantized_stride(int64_t cols);  // int8 only, with quantize
int64_t quantize_tasks(const QuantizeArgs& a, int threads);
void quantize(const QuantizeArgs& a, int64_t task, int64_t tasks);
int64_t matmul_tasks(const MatmulArgs& a, int threads);
void matmul(const MatmulArgs& a, int64_t task, int64_t tasks);

}  // namespace rtfm::cpu::RTFM_TIER
