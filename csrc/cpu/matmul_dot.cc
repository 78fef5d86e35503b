// SPDX-License-Identifier: Apache-2.0
// int8 matmul of the tiers of VNNI and SDOT.
#include "csrc/cpu/epilogue.h"
#include "csrc/cpu/matmul.h"
#include "csrc/cpu/micro_int8.h"

namespace rtfm::cpu::RTFM_TIER {

// Rows of x that stay near while the panels pass.
constexpr int64_t kBlockRows = 60 / MR * MR;

void matmul(const MatmulArgs& a, int64_t task, int64_t tasks) {
  const int64_t panels = round_up(a.n, NR) / NR, depth = padded_depth(a.k);
  const int64_t first = panels * task / tasks, last = panels * (task + 1) / tasks;
  const int8_t* x = static_cast<const int8_t*>(a.x);
  const uint8_t* w = static_cast<const uint8_t*>(a.w);
  const float* scales = reinterpret_cast<const float*>(w + panels * NR * depth);
  alignas(64) float tile[MR * NR];
  for (int64_t block = 0; block < a.rows; block += kBlockRows)
    for (int64_t p = first; p < last; ++p)
      for (int64_t m = block; m < least(block + kBlockRows, a.rows); m += MR) {
        const int64_t rows = least<int64_t>(MR, a.rows - m);
        with_rows(rows, [&](auto r) {
          multiply_int8<r()>(x + m * a.x_stride, a.x_stride, w + p * NR * depth, depth,
                             scales + p * NR, tile, NR);
        });
        apply_epilogue(a, tile, NR, m, rows, p * NR, NR);
      }
}

}  // namespace rtfm::cpu::RTFM_TIER
