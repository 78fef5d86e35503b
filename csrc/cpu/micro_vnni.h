// SPDX-License-Identifier: Apache-2.0
// The integer register kernel of the VNNI tier: a strip of at most kRows rows times 32 columns,
// four bytes of depth at a time, which are four int8 or two int16.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int kRows = 14;  // 28 accumulators of 32 registers
constexpr int64_t kColumns = 32;
constexpr int64_t kAhead = 8;  // groups of depth that are fetched ahead

template <int R>
struct Sums {
  __m512i of[R][2];  // [row][half of the columns]
};

// dot(sum, b, a) over groups of four bytes: a [R] rows, b [groups] of kColumns; strides in bytes.
template <int R, class Dot>
RTFM_INLINE Sums<R> multiply(const void* a, int64_t a_stride, const void* b, int64_t b_stride,
                             int64_t groups, const Dot& dot) {
  const char *rows = static_cast<const char*>(a), *columns = static_cast<const char*>(b);
  __m512i acc[R][2];  // not yet Sums, which GCC would keep in memory
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
  Sums<R> sums;
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v) sums.of[r][v] = acc[r][v];
  return sums;
}

// b unsigned, a signed
RTFM_INLINE __m512i dot_bytes(__m512i sum, __m512i b, __m512i a) {
  return _mm512_dpbusd_epi32(sum, b, a);
}
RTFM_INLINE __m512i dot_words(__m512i sum, __m512i b, __m512i a) {
  return _mm512_dpwssd_epi32(sum, b, a);
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

// A row of int8 values: q = round(x / scale), scale = max|x| / 127.
struct RowEnd {  // stands behind the values
  float scale;
  int32_t offset;  // 128 times the sum of the values
};

// y[R, kColumns] = a · b with all scales: a rows of int8 with their RowEnd, b one panel of k + 128
template <int R>
RTFM_INLINE void multiply_int8(const void* a, int64_t a_stride, const void* b, int64_t depth,
                               const float* scales, float* y, int64_t y_stride) {
  const auto sums = multiply<R>(a, a_stride, b, kColumns * 4, depth / 4, dot_bytes);
  const vf units[2] = {load(scales), load(scales + VL)};
  for (int r = 0; r < R; ++r) {
    RowEnd end;
    std::memcpy(&end, static_cast<const char*>(a) + r * a_stride + depth, sizeof end);
    const __m512i offset = _mm512_set1_epi32(end.offset);
    for (int v = 0; v < 2; ++v) {
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums.of[r][v], offset));
      store(y + r * y_stride + v * VL, (vf)exact * end.scale * units[v]);
    }
  }
}

RTFM_INLINE float unit_of(float peak, float most) { return peak > 0 ? peak / most : 1.f; }

RTFM_INLINE float peak_of(const float* x, int64_t count) {
  vf peaks{};
  for_each_vector(count, [&](int64_t j, int64_t n) {
    const vf v = load_some(x + j, n);
    peaks = max(peaks, max(v, -v));
  });
  return _mm512_reduce_max_ps((__m512)peaks);
}

// q: depth values, zeros from `count` on, then the RowEnd; depth is a multiple of 16
RTFM_INLINE void quantize_row(const float* x, int64_t count, int64_t depth, int8_t* q) {
  const float unit = unit_of(peak_of(x, count), 127.f);
  const vf inverse = splat(1.f / unit);
  __m512i sums = _mm512_setzero_si512();
  for (int64_t j = 0; j < depth; j += VL) {
    const vf v = j < count ? load_some(x + j, least<int64_t>(VL, count - j)) * inverse : vf{};
    const __m512i values = _mm512_cvtps_epi32((__m512)v);
    sums = _mm512_add_epi32(sums, values);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + j), _mm512_cvtsepi32_epi8(values));
  }
  const RowEnd end{unit, 128 * _mm512_reduce_add_epi32(sums)};
  std::memcpy(q + depth, &end, sizeof end);
}

}  // namespace rtfm::cpu::RTFM_TIER
