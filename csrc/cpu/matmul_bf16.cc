// SPDX-License-Identifier: Apache-2.0
// bf16 matmul of the AVX512-BF16 tier.
#include "csrc/cpu/epilogue.h"
#include "csrc/cpu/matmul.h"
#include "csrc/cpu/panels.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kRows = 8 * MR;  // of x, that stay near while the panels pass

int64_t weight_bytes(int64_t n, int64_t k, DType) { return panel_bytes(n, k); }
void pack_weight(const float* w, int64_t n, int64_t k, DType, void* packed) {
  pack_panels(w, n, k, static_cast<Operand*>(packed));
}

int64_t matmul_tasks(const MatmulArgs& a, int threads) {
  return least<int64_t>(round_up(a.n, NR) / NR, threads == 1 ? 1 : 6 * threads);
}

void matmul(const MatmulArgs& a, int64_t task, int64_t tasks) {
  const int64_t panels = round_up(a.n, NR) / NR, depth = words_of(a.k), stride = a.x_stride / kWord;
  const int64_t first = panels * task / tasks, last = panels * (task + 1) / tasks;
  const float *x = static_cast<const float*>(a.x), *w = static_cast<const float*>(a.w);
  alignas(64) float sums[MR * NR];
  for (int64_t block = 0; block < a.rows; block += kRows)
    for (int64_t p = first; p < last; ++p)
      for (int64_t m = block; m < least(block + kRows, a.rows); m += MR) {
        const int64_t rows = least<int64_t>(MR, a.rows - m);
        multiply(rows, Rows{x + m * stride, stride}, Panel{w + p * depth * NR}, depth, sums, NR,
                 false);
        apply_epilogue(a, sums, NR, m, rows, p * NR, NR);
      }
}

}  // namespace rtfm::cpu::RTFM_TIER
