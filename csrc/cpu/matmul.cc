// SPDX-License-Identifier: Apache-2.0
// f32 matmul of the portable, AVX2 and AVX-512 tiers.
#include "csrc/cpu/matmul.h"

#include "csrc/cpu/epilogue.h"
#include "csrc/cpu/panels.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kRowsInL2 = 8 * MR;  // rows of x that stay near while the panels pass

int64_t weight_bytes(int64_t n, int64_t k) { return panel_bytes(n, k); }
void pack_weight(const float* w, int64_t n, int64_t k, void* packed) {
  pack_panels(w, n, k, static_cast<float*>(packed));
}

int64_t matmul_tasks(const MatmulArgs& a, int threads) {
  return least<int64_t>(round_up(a.n, NR) / NR, threads == 1 ? 1 : 6 * threads);
}

void matmul(const MatmulArgs& a, int64_t task, int64_t tasks) {
  const int64_t panels = round_up(a.n, NR) / NR;
  const int64_t first = panels * task / tasks, last = panels * (task + 1) / tasks;
  const float* x = static_cast<const float*>(a.x);
  const float* w = static_cast<const float*>(a.w);
  alignas(64) float tile[MR * NR];
  for (int64_t block = 0; block < a.rows; block += kRowsInL2)
    for (int64_t p = first; p < last; ++p)
      for (int64_t m = block; m < least(block + kRowsInL2, a.rows); m += MR) {
        const int64_t rows = least<int64_t>(MR, a.rows - m);
        multiply(rows, x + m * a.x_stride, a.x_stride, w + p * a.k * NR, NR, a.k, tile, NR, false);
        apply_epilogue(a, tile, NR, m, rows, p * NR, NR);
      }
}

}  // namespace rtfm::cpu::RTFM_TIER
