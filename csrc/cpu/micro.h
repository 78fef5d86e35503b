// SPDX-License-Identifier: Apache-2.0
// The register kernel of matmul and attention in f32 and AVX512-BF16: a strip of at most MR rows
// times a panel of NR columns, a word of depth at a time, which is one f32 or two bf16.
#pragma once

#include "csrc/cpu/strip.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kWord = sizeof(float) / sizeof(Operand);  // depths in a word
RTFM_INLINE int64_t words_of(int64_t depth) { return round_up(depth, kWord) / kWord; }

#ifdef RTFM_BF16
RTFM_INLINE vf multiply_add(vf sum, vf x, vf b) {
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)b, (__m512bh)x);
}
#else
RTFM_INLINE vf multiply_add(vf sum, vf x, vf b) { return sum + x * b; }
#endif

// Rows of NR columns that lie `stride` words apart.
struct Panel {
  const float* rows;
  int64_t stride = NR;

  RTFM_INLINE void get(const Panel& p, int64_t i, vf& left, vf& right) {
    constexpr int64_t kAhead = 16;  // weights come from beyond L2: 14 % of a step
    __builtin_prefetch(p.rows + (i + kAhead) * p.stride);
    if constexpr (NR * 4 > 64) __builtin_prefetch(p.rows + (i + kAhead) * p.stride + VL);
    left = load(p.rows + i * p.stride), right = load(p.rows + i * p.stride + VL);
  }
};

// Of f32 in bf16, which holds them exactly: a word is a column and, in its upper half, the one VL
// further right. Leaves the rows in `wide` for the strips to come.
struct NarrowPanel {
  const uint32_t* rows;
  float* wide;

  RTFM_INLINE void get(const NarrowPanel& p, int64_t i, vf& left, vf& right) {
    constexpr int64_t kAhead = 32;
    __builtin_prefetch(p.rows + (i + kAhead) * VL);
    vu pairs;
    std::memcpy(&pairs, p.rows + i * VL, sizeof pairs);
    left = (vf)(pairs << 16), right = (vf)(pairs & 0xffff0000u);
    store(p.wide + i * NR, left), store(p.wide + i * NR + VL, right);
  }
};

// A matrix [R, k] whose rows lie `stride` words apart.
struct Rows {
  const float* at;
  int64_t stride;
  RTFM_INLINE float get(const Rows& a, int64_t r, int64_t i) { return a.at[r * a.stride + i]; }
};

// c[R, NR] (+)= a[R, k] · b[k, NR]; k and strides in words.
template <int R, class A, class B>
static __attribute__((noinline)) void strip(const A& a, const B& b, int64_t k, float* c,
                                            int64_t ldc, bool accumulate) {
  vf acc[R][2] = {};
  if (accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r][0] = load(c + r * ldc), acc[r][1] = load(c + r * ldc + VL);
  }
#pragma GCC unroll 1  // GCC's default unrolling spills and halves the rate
  for (int64_t i = 0; i < k; ++i) {
    vf b0, b1;
    B::get(b, i, b0, b1);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf x = splat(A::get(a, r, i));
      acc[r][0] = multiply_add(acc[r][0], x, b0);
      acc[r][1] = multiply_add(acc[r][1], x, b1);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) store(c + r * ldc, acc[r][0]), store(c + r * ldc + VL, acc[r][1]);
}

template <class A, class B>
static void multiply(int64_t rows, const A& a, const B& b, int64_t k, float* c, int64_t ldc,
                     bool accumulate) {
  with_rows(rows, [&](auto r) { strip<r()>(a, b, k, c, ldc, accumulate); });
}

}  // namespace rtfm::cpu::RTFM_TIER
