// SPDX-License-Identifier: Apache-2.0
// What matmuls in int8 share. Weights have a scale for each output channel, rows of x one each,
// made as they come. Weights are packed [n/NR, k/4, NR, 4] as w + kBias, then their
// scales [n padded].
#include "csrc/cpu/int8.h"
#include "csrc/cpu/matmul.h"
#include "csrc/cpu/transpose.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t weight_bytes(int64_t n, int64_t k, DType) {
  return round_up(n, NR) * (padded_depth(k) + int64_t(sizeof(float)));
}

void pack_weight(const float* w, int64_t n, int64_t k, DType, void* packed) {
  const int64_t depth = padded_depth(k), columns = round_up(n, NR);
  char* out = static_cast<char*>(packed);
  float* scales = reinterpret_cast<float*>(out + columns * depth);
  for (int64_t col = 0; col < columns; ++col)
    scales[col] = unit_of(col < n ? peak_of(w + col * k, k) : 0.f, 127.f);
  alignas(64) uint8_t rows[VL * 4 * VL];  // of VL columns, 4 VL of their depth
  for (int64_t col = 0; col < columns; col += VL)
    for (int64_t i = 0; i < depth; i += 4 * VL) {
      for (int64_t j = 0; j < 4 * VL; ++j) {
        const int64_t row = col + j / 4, at = i + j % 4 * VL;
        const bool there = row < n && at < k;
        const vf v = there ? load_some(w + row * k + at, least(VL, k - at)) / scales[row] : vf{};
        store_bytes(rows + j * VL, rounded(v) + kBias);
      }
      char* panel = out + col / NR * NR * depth + col % NR * 4;
      put_columns(reinterpret_cast<const float*>(rows), VL, VL, VL,
                  reinterpret_cast<float*>(panel + i * NR), NR);
    }
}

int64_t quantized_stride(int64_t cols) { return padded_depth(cols) + 64; }

int64_t quantize_tasks(const QuantizeArgs& a, int threads) {
  return least<int64_t>(round_up(a.rows, 8) / 8, threads == 1 ? 1 : 4 * threads);
}

void quantize(const QuantizeArgs& a, int64_t task, int64_t tasks) {
  for (int64_t row = a.rows * task / tasks; row < a.rows * (task + 1) / tasks; ++row)
    quantize_row(static_cast<const Operand*>(a.x) + row * a.x_stride, a.cols, padded_depth(a.cols),
                 static_cast<int8_t*>(a.q) + row * quantized_stride(a.cols));
}

int64_t matmul_tasks(const MatmulArgs& a, int threads) {
  return least<int64_t>(round_up(a.n, NR) / NR, threads == 1 ? 1 : 6 * threads);
}

}  // namespace rtfm::cpu::RTFM_TIER
