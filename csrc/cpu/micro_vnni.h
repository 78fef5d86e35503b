// SPDX-License-Identifier: Apache-2.0
// The integer register kernel of the VNNI tier: a strip of at most kRows rows times 32 columns,
// four bytes of depth at a time, which are four int8 or two int16.
#pragma once

#include <type_traits>

#include "csrc/cpu/int8.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int kRows = 14;      // 28 accumulators of 32 registers
constexpr int64_t kAhead = 8;  // groups of depth that are fetched ahead

// dot(sum, b, a) over groups of four bytes: a [R] rows, b [groups] of kColumns; strides in bytes.
// take(row, half of the columns, sum) gets the results.
template <int R, class Dot, class Take>
RTFM_INLINE void multiply(const void* a, int64_t a_stride, const void* b, int64_t b_stride,
                          int64_t groups, const Dot& dot, const Take& take) {
  const char *rows = static_cast<const char*>(a), *columns = static_cast<const char*>(b);
  __m512i acc[R][2];
  for (auto& row : acc) row[0] = row[1] = _mm512_setzero_si512();
#pragma GCC unroll 1
  for (int64_t i = 0; i < groups; ++i) {
    const char* group = columns + i * b_stride;
    __builtin_prefetch(group + kAhead * b_stride);
    __builtin_prefetch(group + kAhead * b_stride + 64);
    const __m512i b0 = _mm512_loadu_si512(group), b1 = _mm512_loadu_si512(group + 64);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t four;
      std::memcpy(&four, rows + r * a_stride + i * 4, 4);
      const __m512i x = _mm512_set1_epi32(four);
      acc[r][0] = dot(acc[r][0], b0, x);
      acc[r][1] = dot(acc[r][1], b1, x);
    }
  }
#pragma GCC unroll 16  // an index that varies would keep acc in memory, in the loop above too
  for (int r = 0; r < R; ++r) take(r, 0, acc[r][0]), take(r, 1, acc[r][1]);
}

// Assembly, because GCC 12 copies every sum twice around its intrinsics. b unsigned, a signed.
RTFM_INLINE __m512i dot_bytes(__m512i sum, __m512i b, __m512i a) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a));
  return sum;
}
RTFM_INLINE __m512i dot_words(__m512i sum, __m512i b, __m512i a) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a));
  return sum;
}

// f with `rows`, 1 to kRows, as a constant.
template <int R = kRows, class F>
RTFM_INLINE void with_rows(int64_t rows, const F& f) {
  if constexpr (R > 0) {
    if (rows == R)
      f(std::integral_constant<int, R>());
    else
      with_rows<R - 1>(rows, f);
  }
}

// y[R, kColumns] = a · b with all scales: a rows of int8 with their RowEnd, b one panel of k + 128
template <int R>
RTFM_INLINE void multiply_int8(const void* a, int64_t a_stride, const void* b, int64_t depth,
                               const float* scales, float* y, int64_t y_stride) {
  const vf units[2] = {load(scales), load(scales + VL)};
  multiply<R>(a, a_stride, b, kColumns * 4, depth / 4, dot_bytes,
              [&](int r, int half, __m512i sum) {
                const RowEnd end = end_of_row(static_cast<const char*>(a) + r * a_stride, depth);
                store(y + r * y_stride + half * VL, dequantized(sum, end, units[half]));
              });
}

}  // namespace rtfm::cpu::RTFM_TIER
