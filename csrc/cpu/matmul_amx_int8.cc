// SPDX-License-Identifier: Apache-2.0
// int8 matmul of the AMX-INT8 tier, on the weights of VNNI: 16 groups of depth are the rows of a
// tile.
#include "csrc/cpu/amx.h"
#include "csrc/cpu/epilogue.h"
#include "csrc/cpu/int8.h"
#include "csrc/cpu/matmul.h"

namespace rtfm::cpu::RTFM_TIER {

// Adds 32 rows of x, signed, times a panel of w, unsigned, over a depth of 64.
RTFM_INLINE void multiply_bytes(const int8_t* x, int64_t x_stride, const uint8_t* w) {
  _tile_loadd(4, x, x_stride);
  _tile_loadd(6, w, NR * 4);
  _tile_dpbsud(0, 4, 6);
  _tile_loadd(7, w + 64, NR * 4);
  _tile_dpbsud(1, 4, 7);
  _tile_loadd(5, x + 16 * x_stride, x_stride);
  _tile_dpbsud(2, 5, 6);
  _tile_dpbsud(3, 5, 7);
}

void matmul(const MatmulArgs& a, int64_t task, int64_t tasks) {
  const Tiles tiles;
  const int64_t panels = round_up(a.n, NR) / NR, depth = padded_depth(a.k);
  const int64_t first = panels * task / tasks, last = panels * (task + 1) / tasks;
  const uint8_t* w = static_cast<const uint8_t*>(a.w);
  const float* scales = reinterpret_cast<const float*>(w + panels * NR * depth);
  alignas(64) int32_t sums[32 * NR];
  alignas(64) float result[32 * NR];
  for (int64_t p = first; p < last; ++p)
    for (int64_t m = 0; m < a.rows; m += 32) {
      const int8_t* x = static_cast<const int8_t*>(a.x) + m * a.x_stride;
      const int64_t rows = least<int64_t>(32, a.rows - m);
      clear_accumulators();
      for (int64_t i = 0; i < depth; i += 64)
        multiply_bytes(x + i, a.x_stride, w + (p * depth + i) * NR);
      store_accumulators(sums, NR);
      for (int64_t r = 0; r < rows; ++r) {
        const RowEnd end = end_of_row(x + r * a.x_stride, depth);
        for (int64_t j = 0; j < NR; j += VL)
          store(result + r * NR + j,
                dequantized(load_words(sums + r * NR + j), end, load(scales + p * NR + j)));
      }
      apply_epilogue(a, result, NR, m, rows, p * NR, NR);
    }
}

}  // namespace rtfm::cpu::RTFM_TIER
