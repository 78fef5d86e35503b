// SPDX-License-Identifier: Apache-2.0
// The integer register kernel of VNNI and SDOT: a strip of at most MR rows times NR columns,
// four bytes of depth at a time, which are four int8 or two int16.
#pragma once

#include "csrc/cpu/int8.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kAhead = 8;  // groups of depth that are fetched ahead

// dot(sum, b, a) over groups of four bytes: a [R] rows, b [groups] of NR; strides in bytes.
// take(row, half of the columns, sum) gets the results.
template <int R, class Dot, class Take>
RTFM_INLINE void multiply(const void* a, int64_t a_stride, const void* b, int64_t b_stride,
                          int64_t groups, const Dot& dot, const Take& take) {
  const char *rows = static_cast<const char*>(a), *columns = static_cast<const char*>(b);
  vi acc[R][2] = {};
#pragma GCC unroll 1
  for (int64_t i = 0; i < groups; ++i) {
    const char* group = columns + i * b_stride;
    __builtin_prefetch(group + kAhead * b_stride);
    if constexpr (NR * 4 > 64) __builtin_prefetch(group + kAhead * b_stride + 64);
    const vi b0 = load_words(group), b1 = load_words(group + sizeof b0);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t four;
      std::memcpy(&four, rows + r * a_stride + i * 4, 4);
      acc[r][0] = dot(acc[r][0], b0, four);
      acc[r][1] = dot(acc[r][1], b1, four);
    }
  }
#pragma GCC unroll 16  // an index that varies would keep acc in memory, in the loop above too
  for (int r = 0; r < R; ++r) take(r, 0, acc[r][0]), take(r, 1, acc[r][1]);
}

// Assembly, because GCC 12 copies every sum twice around its intrinsics. a signed; b unsigned with
// VNNI, signed with SDOT.
#ifdef __aarch64__
RTFM_INLINE vi dot_bytes(vi sum, vi b, int32_t a) {
  asm("sdot %0.4s, %1.16b, %2.4b[0]" : "+w"(sum) : "w"(b), "w"(a));
  return sum;
}
#else
#ifdef __AVX512VNNI__
#define RTFM_PREFIX ""
#else
#define RTFM_PREFIX "%{vex%} "  // or assemblers take the form of AVX-512
#endif
RTFM_INLINE vi dot_bytes(vi sum, vi b, int32_t a) {
  asm(RTFM_PREFIX "vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a - vi{}));
  return sum;
}
RTFM_INLINE vi dot_words(vi sum, vi b, int32_t a) {
  asm(RTFM_PREFIX "vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a - vi{}));
  return sum;
}
#undef RTFM_PREFIX
#endif

// y[R, NR] = a · b with all scales: a rows of int8 with their RowEnd, b a panel of k + kBias.
// Not inline, and scales are read last, so that GCC 12 keeps the sums in registers.
template <int R>
__attribute__((noinline)) static void multiply_int8(const void* a, int64_t a_stride, const void* b,
                                                    int64_t depth, const float* scales, float* y,
                                                    int64_t y_stride) {
  multiply<R>(a, a_stride, b, NR * 4, depth / 4, dot_bytes, [&](int r, int half, vi sum) {
    const RowEnd end = end_of_row(static_cast<const char*>(a) + r * a_stride, depth);
    store(y + r * y_stride + half * VL, dequantized(sum, end, load(scales + half * VL)));
  });
}

}  // namespace rtfm::cpu::RTFM_TIER
