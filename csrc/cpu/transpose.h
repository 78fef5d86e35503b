// SPDX-License-Identifier: Apache-2.0
// Squares of 32-bit words, turned in registers: keys come token by token and lie column by column
// in the panels and tiles that attention reads.
#pragma once

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

// a0 b0 a1 b1 ... of the lower halves, or of the upper ones
template <bool Upper, size_t... I>
RTFM_INLINE vf zip(vf a, vf b, std::index_sequence<I...>) {
  return shuffle<int(I / 2 + (Upper ? VL / 2 : 0) + I % 2 * VL)...>(a, b);
}

// A perfect shuffle of the rows moves one bit from the number of a row to that of a column and one
// back, so log2(VL) of them exchange the two.
RTFM_INLINE void transpose(vf (&square)[VL]) {
  for (int64_t round = 1; round < VL; round *= 2) {
    vf shuffled[VL];
    for (int64_t i = 0; i < VL / 2; ++i) {
      shuffled[2 * i] = zip<false>(square[i], square[i + VL / 2], Lanes());
      shuffled[2 * i + 1] = zip<true>(square[i], square[i + VL / 2], Lanes());
    }
    std::memcpy(square, shuffled, sizeof square);
  }
}

// out[i * out_stride + j] = rows[j * stride + i] for i < words, j < VL; zeros from count on
RTFM_INLINE void put_columns(const float* rows, int64_t stride, int64_t count, int64_t words,
                             float* out, int64_t out_stride) {
  for (int64_t first = 0; first < words; first += VL) {
    const int64_t n = least(VL, words - first);
    vf square[VL];
    for (int64_t j = 0; j < VL; ++j)
      square[j] = j < count ? load_some(rows + j * stride + first, n) : vf{};
    transpose(square);
    for (int64_t i = 0; i < n; ++i) store(out + (first + i) * out_stride, square[i]);
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
