// SPDX-License-Identifier: Apache-2.0
// Weights as the register kernels read them: matmul's, and those of convolutions on all tiers.
#pragma once

#ifdef RTFM_BF16
#include "csrc/cpu/amx.h"
#else
#include "csrc/cpu/micro.h"
#endif

namespace rtfm::cpu::RTFM_TIER {

#ifdef RTFM_BF16

// Weights w[n, k] as [n/32, k/32, 2 tiles, 16 pairs of k, 16 columns, 2].
RTFM_INLINE int64_t panel_bytes(int64_t n, int64_t k) {
  return round_up(n, 32) * round_up(k, 32) * 2;
}
static inline void pack_panels(const float* w, int64_t n, int64_t k, Operand* out) {
  for (int64_t n0 = 0; n0 < n; n0 += 32)
    for (int64_t k0 = 0; k0 < k; k0 += 32)
      for (int64_t tile = 0; tile < 2; ++tile)
        for (int64_t pair = 0; pair < 16; ++pair)
          for (int64_t col = 0; col < 16; ++col)
            for (int64_t i = 0; i < 2; ++i) {
              const int64_t row = n0 + tile * 16 + col, at = k0 + pair * 2 + i;
              *out++ = row < n && at < k ? to_bf16(w[row * k + at]) : Operand(0);
            }
}

#else

// Weights w[n, k] as panels [n/NR, k, NR].
RTFM_INLINE int64_t panel_bytes(int64_t n, int64_t k) { return round_up(n, NR) * k * 4; }
static inline void pack_panels(const float* w, int64_t n, int64_t k, float* out) {
  for (int64_t panel = 0; panel < n; panel += NR)
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < NR; ++j) *out++ = panel + j < n ? w[(panel + j) * k + i] : 0.f;
}

#endif

}  // namespace rtfm::cpu::RTFM_TIER
