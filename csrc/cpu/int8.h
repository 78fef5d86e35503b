// SPDX-License-Identifier: Apache-2.0
// Rows in int8 with a scale each, as AMX, VNNI and SDOT multiply them.
#pragma once

#ifdef __aarch64__
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#include "csrc/cpu/strip.h"

namespace rtfm::cpu::RTFM_TIER {

#ifdef __aarch64__
constexpr int kBias = 0;
#else
constexpr int kBias = 128;  // of what a panel holds, which VNNI takes as unsigned
#endif

RTFM_INLINE int64_t padded_depth(int64_t k) { return round_up(k, 64); }

// A row of int8 values: q = round(x / scale), scale = max|x| / 127.
struct RowEnd {  // stands behind the values
  float scale;
  int32_t offset;  // kBias times the sum of the values
};

RTFM_INLINE RowEnd end_of_row(const void* row, int64_t depth) {
  RowEnd end;
  std::memcpy(&end, static_cast<const char*>(row) + depth, sizeof end);
  return end;
}

// What sums over a row times columns + kBias stand for; unit: the columns' scales.
RTFM_INLINE vf dequantized(vi sums, const RowEnd& end, vf unit) {
  return __builtin_convertvector(sums - end.offset, vf) * end.scale * unit;
}

RTFM_INLINE vi load_words(const void* p) { return (vi)load(static_cast<const float*>(p)); }

// To nearest, ties to even.
RTFM_INLINE vi rounded(vf x) {
#ifdef __AVX512F__
  return (vi)_mm512_cvtps_epi32((__m512)x);
#elif defined(__aarch64__)
  return (vi)vcvtnq_s32_f32((float32x4_t)x);
#else
  return (vi)_mm256_cvtps_epi32((__m256)x);
#endif
}

// The low byte of each.
RTFM_INLINE void store_bytes(void* p, vi v) {
#ifdef __AVX512F__
  const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)v);
#elif defined(__aarch64__)
  const int16x4_t words = vmovn_s32((int32x4_t)v);
  const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
#else
  const __m256i halves = _mm256_shuffle_epi8((__m256i)v, _mm256_set1_epi32(0x0c080400));
  const __m128i bytes =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
#endif
  std::memcpy(p, &bytes, size_t(VL));
}

RTFM_INLINE float unit_of(float peak, float most) { return peak > 0 ? peak / most : 1.f; }

template <class T>
RTFM_INLINE float peak_of(const T* x, int64_t count) {
  vf peaks{};
  for_each_vector(count, [&](int64_t j, int64_t n) {
    const vf v = load_some(x + j, n);
    peaks = max(peaks, max(v, -v));
  });
  return highest_of(peaks);
}

// q: depth values, zeros from `count` on, then the RowEnd; depth is a multiple of 16
template <class T>
RTFM_INLINE void quantize_row(const T* x, int64_t count, int64_t depth, int8_t* q) {
  const float unit = unit_of(peak_of(x, count), 127.f);
  const vf inverse = splat(1.f / unit);
  vi sums{};
  for (int64_t j = 0; j < depth; j += VL) {
    const vf v = j < count ? load_some(x + j, least<int64_t>(VL, count - j)) * inverse : vf{};
    const vi values = rounded(v);
    sums += values;
    store_bytes(q + j, values);
  }
  const RowEnd end{unit, kBias * sum(sums)};
  std::memcpy(q + depth, &end, sizeof end);
}

}  // namespace rtfm::cpu::RTFM_TIER
