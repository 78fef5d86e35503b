// SPDX-License-Identifier: Apache-2.0
// Weights as the register kernels read them: matmul's, and those of convolutions on all tiers.
#pragma once

#ifdef __AMX_TILE__
#include "csrc/cpu/amx.h"
#else
#include "csrc/cpu/micro.h"
#endif
#include "csrc/cpu/transpose.h"

namespace rtfm::cpu::RTFM_TIER {

#if defined(__AMX_TILE__)

// Weights w[n, k] as [n/32, k/32, 2 tiles, 16 pairs of k, 16 columns, 2].
RTFM_INLINE int64_t panel_bytes(int64_t n, int64_t k) {
  return round_up(n, 32) * round_up(k, 32) * 2;
}
static inline void pack_panels(const float* w, int64_t n, int64_t k, Operand* out) {
  alignas(64) Operand rows[16 * 32];
  for (int64_t n0 = 0; n0 < n; n0 += 32)
    for (int64_t k0 = 0; k0 < k; k0 += 32)
      for (int64_t tile = n0; tile < n0 + 32; tile += 16, out += kTile) {
        for (int64_t i = 0; i < 32; ++i) {
          const int64_t row = tile + i / 2, at = k0 + i % 2 * VL;
          const bool there = row < n && at < k;
          store(rows + i * VL, there ? load_some(w + row * k + at, least(VL, k - at)) : vf{});
        }
        put_columns(reinterpret_cast<const float*>(rows), 16, 16, 16, reinterpret_cast<float*>(out),
                    16);
      }
}

#elif defined(RTFM_BF16)

// Weights w[n, k] as panels [n/NR, k/2, NR, 2].
RTFM_INLINE int64_t panel_bytes(int64_t n, int64_t k) {
  return round_up(n, NR) * words_of(k) * int64_t(sizeof(float));
}
static inline void pack_panels(const float* w, int64_t n, int64_t k, Operand* out) {
  constexpr int64_t kDepth = 2 * VL;
  alignas(64) Operand rows[VL * kDepth];
  for (int64_t col = 0; col < round_up(n, NR); col += VL)
    for (int64_t i = 0; i < k; i += kDepth) {
      const int64_t count = least(VL, n - col), depth = least(kDepth, k - i);
      std::memset(rows, 0, sizeof rows);  // what an odd depth ends with is multiplied too
      for (int64_t j = 0; j < count; ++j) copy_row(w + (col + j) * k + i, depth, rows + j * kDepth);
      float* panel = reinterpret_cast<float*>(out) + col / NR * NR * words_of(k) + col % NR;
      put_columns(reinterpret_cast<const float*>(rows), VL, VL, words_of(depth),
                  panel + i / kWord * NR, NR);
    }
}

#else

// Weights w[n, k] as panels [n/NR, k, NR].
RTFM_INLINE int64_t panel_bytes(int64_t n, int64_t k) { return round_up(n, NR) * k * 4; }
static inline void pack_panels(const float* w, int64_t n, int64_t k, float* out) {
  for (int64_t panel = 0; panel < n; panel += NR, out += k * NR)
    for (int64_t half = 0; half < NR; half += VL)
      put_columns(w + (panel + half) * k, k, n - panel - half, k, out + half, NR);
}

#endif

}  // namespace rtfm::cpu::RTFM_TIER
