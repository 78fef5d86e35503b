// SPDX-License-Identifier: Apache-2.0
// How much a register kernel, of f32 or of integers, multiplies at a time: at most MR rows by NR
// columns.
#pragma once

#include <type_traits>

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

// f with `rows`, 1 to MR, as a constant.
template <int R = MR, class F>
RTFM_INLINE void with_rows(int64_t rows, const F& f) {
  if constexpr (R > 0) {
    if (rows == R)
      f(std::integral_constant<int, R>());
    else
      with_rows<R - 1>(rows, f);
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
