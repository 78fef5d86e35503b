// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "csrc/backend.h"
#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t attention_tasks(const AttentionArgs& a, int threads);
void attention(const AttentionArgs& a, int64_t task, int64_t tasks);

// y of one head from out[rows, stride], each divided by total(row): how every attention ends.
template <class Total>
RTFM_INLINE void put_rows(const AttentionArgs& a, int64_t head, int64_t first, int64_t rows,
                          const float* out, int64_t stride, const Total& total) {
  for (int64_t r = 0; r < rows; ++r) {
    Operand* y = static_cast<Operand*>(a.y) + (first + r) * a.y_stride + head * a.dim;
    const float inverse = 1.f / total(r);
    for_each_vector(a.dim, [&](int64_t d, int64_t n) {
      store_some(y + d, load_some(out + r * stride + d, n) * inverse, n);
    });
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
