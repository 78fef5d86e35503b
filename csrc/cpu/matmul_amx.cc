// SPDX-License-Identifier: Apache-2.0
// bf16 matmul of the AMX tier.
#include "csrc/cpu/amx.h"
#include "csrc/cpu/epilogue.h"
#include "csrc/cpu/matmul.h"
#include "csrc/cpu/panels.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t weight_bytes(int64_t n, int64_t k, DType) { return panel_bytes(n, k); }
void pack_weight(const float* w, int64_t n, int64_t k, DType, void* packed) {
  pack_panels(w, n, k, static_cast<Operand*>(packed));
}

int64_t matmul_tasks(const MatmulArgs& a, int threads) {
  return least<int64_t>(round_up(a.n, 32) / 32, threads == 1 ? 1 : 6 * threads);
}

void matmul(const MatmulArgs& a, int64_t task, int64_t tasks) {
  const Tiles tiles;
  const int64_t panels = round_up(a.n, 32) / 32, depth = round_up(a.k, 32) / 32;
  const int64_t first = panels * task / tasks, last = panels * (task + 1) / tasks;
  const Operand* x = static_cast<const Operand*>(a.x);
  const Operand* w = static_cast<const Operand*>(a.w);
  alignas(64) float result[2][32 * 32];  // two, so that an epilogue overlaps the next block's tiles
  int which = 0;
  for (int64_t p = first; p < last; ++p)
    for (int64_t m = 0; m < a.rows; m += 32, which ^= 1) {
      const Operand* a0 = x + m * a.x_stride;
      const Operand* a1 = a0 + 16 * a.x_stride;
      const Operand* b = w + p * depth * 2 * kTile;
      clear_accumulators();
      for (int64_t i = 0; i < depth; ++i)
        multiply_tiles(a0 + i * 32, a1 + i * 32, a.x_stride * 2, b + i * 2 * kTile,
                       b + (i * 2 + 1) * kTile);
      store_accumulators(result[which], 32);
      apply_epilogue(a, result[which], 32, m, least<int64_t>(32, a.rows - m), p * 32, 32);
    }
}

}  // namespace rtfm::cpu::RTFM_TIER
