// SPDX-License-Identifier: Apache-2.0
// Rows in int8 with a scale each, as the tiers with AVX-512 multiply them.
#pragma once

#include <immintrin.h>

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kColumns = 32;  // of a panel of weights or keys

RTFM_INLINE int64_t padded_depth(int64_t k) { return round_up(k, 64); }

// A row of int8 values: q = round(x / scale), scale = max|x| / 127.
struct RowEnd {  // stands behind the values
  float scale;
  int32_t offset;  // 128 times the sum of the values
};

RTFM_INLINE RowEnd end_of_row(const void* row, int64_t depth) {
  RowEnd end;
  std::memcpy(&end, static_cast<const char*>(row) + depth, sizeof end);
  return end;
}

// What 16 sums over a row times columns + 128 stand for; unit: the columns' scales.
RTFM_INLINE vf dequantized(__m512i sums, const RowEnd& end, vf unit) {
  const __m512i exact = _mm512_sub_epi32(sums, _mm512_set1_epi32(end.offset));
  return (vf)_mm512_cvtepi32_ps(exact) * end.scale * unit;
}

RTFM_INLINE float unit_of(float peak, float most) { return peak > 0 ? peak / most : 1.f; }

template <class T>
RTFM_INLINE float peak_of(const T* x, int64_t count) {
  vf peaks{};
  for_each_vector(count, [&](int64_t j, int64_t n) {
    const vf v = load_some(x + j, n);
    peaks = max(peaks, max(v, -v));
  });
  return _mm512_reduce_max_ps((__m512)peaks);
}

// q: depth values, zeros from `count` on, then the RowEnd; depth is a multiple of 16
template <class T>
RTFM_INLINE void quantize_row(const T* x, int64_t count, int64_t depth, int8_t* q) {
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
