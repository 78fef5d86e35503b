// SPDX-License-Identifier: Apache-2.0
// f32 matmul of the portable, AVX2 and AVX-512 tiers.
#include "csrc/cpu/matmul.h"

#include "csrc/cpu/epilogue.h"
#include "csrc/cpu/panels.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kRows = 8 * MR;  // of x, that stay near while the panels pass
constexpr int64_t kDepth = 512;    // of a panel that is multiplied, and widened, at a time

int64_t weight_bytes(int64_t n, int64_t k, DType stored) {
  return panel_bytes(n, k) / 4 * size_of(stored);
}

// w[n, k] as panels [n/NR, k, VL] of pairs: columns j and j + VL, in bf16.
static void pack_narrow(const float* w, int64_t n, int64_t k, uint32_t* out) {
  alignas(64) float pairs[VL * VL];
  for (int64_t panel = 0; panel < n; panel += NR, out += k * VL)
    for (int64_t i = 0; i < k; i += VL) {
      const int64_t depth = least(VL, k - i);
      const auto bits = [&](int64_t column) {
        return column < n ? (vu)load_some(w + column * k + i, depth) : vu{};
      };
      for (int64_t j = 0; j < VL; ++j)
        store(pairs + j * VL, (vf)(bits(panel + j) >> 16 | bits(panel + j + VL)));
      put_columns(pairs, VL, VL, depth, reinterpret_cast<float*>(out) + i * VL, VL);
    }
}

void pack_weight(const float* w, int64_t n, int64_t k, DType stored, void* packed) {
  if (stored == DType::bf16)
    pack_narrow(w, n, k, static_cast<uint32_t*>(packed));
  else
    pack_panels(w, n, k, static_cast<float*>(packed));
}

int64_t matmul_tasks(const MatmulArgs& a, int threads) {
  return least<int64_t>(round_up(a.n, NR) / NR, threads == 1 ? 1 : 6 * threads);
}

// sums[rows, NR] (+)= x[rows, depth] · a part of a panel, whose first row is the at-th of all
static void add_products(const MatmulArgs& a, const float* x, int64_t rows, int64_t at,
                         int64_t depth, float* sums, bool more) {
  alignas(64) float wide[kDepth * NR];
  const bool narrow = a.stored == DType::bf16;
  const Panel panel{narrow ? wide : static_cast<const float*>(a.w) + at * NR};
  for (int64_t m = 0; m < rows; m += MR) {
    const int64_t count = least<int64_t>(MR, rows - m);
    const Rows strip_of_x{x + m * a.x_stride, a.x_stride};
    if (narrow && m == 0)
      multiply(count, strip_of_x, NarrowPanel{static_cast<const uint32_t*>(a.w) + at * VL, wide},
               depth, sums, NR, more);
    else
      multiply(count, strip_of_x, panel, depth, sums + m * NR, NR, more);
  }
}

void matmul(const MatmulArgs& a, int64_t task, int64_t tasks) {
  const int64_t panels = round_up(a.n, NR) / NR;
  const int64_t first = panels * task / tasks, last = panels * (task + 1) / tasks;
  const float* x = static_cast<const float*>(a.x);
  alignas(64) float sums[kRows * NR];
  for (int64_t row = 0; row < a.rows; row += kRows)
    for (int64_t p = first; p < last; ++p) {
      const int64_t rows = least(kRows, a.rows - row);
      for (int64_t k = 0; k < a.k; k += kDepth)
        add_products(a, x + row * a.x_stride + k, rows, p * a.k + k, least(kDepth, a.k - k), sums,
                     k > 0);
      apply_epilogue(a, sums, NR, row, rows, p * NR, NR);
    }
}

}  // namespace rtfm::cpu::RTFM_TIER
