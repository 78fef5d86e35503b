// SPDX-License-Identifier: Apache-2.0
// The f32 register kernel of matmul and attention: a strip of at most MR rows times a panel of NR
// columns.
#pragma once

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

// Accumulators fill the register file: 28 of 32 with AVX-512, 24 of 32 on aarch64, 12 of 16
// otherwise.
#if RTFM_VEC_BYTES == 64
constexpr int MR = 14;
#elif defined(__aarch64__)
constexpr int MR = 12;
#else
constexpr int MR = 6;
#endif
constexpr int64_t NR = 2 * VL;

// Rows of NR columns that lie `stride` floats apart.
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

// The same in bf16, which f32 holds exactly: a word is a column and, in its upper half, the one VL
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

// c[R, NR] (+)= a[R, k] · b[k, NR]; strides in floats.
template <int R, class B>
static void strip(const float* a, int64_t lda, const B& b, int64_t k, float* c, int64_t ldc,
                  bool accumulate) {
  vf acc[R][2];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v) acc[r][v] = accumulate ? load(c + r * ldc + v * VL) : vf{};
#pragma GCC unroll 1  // GCC's default unrolling spills and halves the rate
  for (int64_t i = 0; i < k; ++i) {
    vf b0, b1;
    B::get(b, i, b0, b1);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf x = splat(a[r * lda + i]);
      acc[r][0] += x * b0;
      acc[r][1] += x * b1;
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v) store(c + r * ldc + v * VL, acc[r][v]);
}

template <int R = MR, class B>
static void multiply(int64_t rows, const float* a, int64_t lda, const B& b, int64_t k, float* c,
                     int64_t ldc, bool accumulate) {
  if constexpr (R > 0) {
    if (rows == R)
      strip<R>(a, lda, b, k, c, ldc, accumulate);
    else
      multiply<R - 1>(rows, a, lda, b, k, c, ldc, accumulate);
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
