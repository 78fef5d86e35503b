// SPDX-License-Identifier: Apache-2.0
// What matmuls in int8 share. Weights have a scale for each output channel, rows of x one each,
// made as they come. Weights are packed [n/32, k/4, 32 columns, 4] as w + 128, then their scales [n
// padded].
#include <algorithm>
#include <cmath>

#include "csrc/cpu/int8.h"
#include "csrc/cpu/matmul.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t weight_bytes(int64_t n, int64_t k, DType) {
  return round_up(n, kColumns) * (padded_depth(k) + int64_t(sizeof(float)));
}

void pack_weight(const float* w, int64_t n, int64_t k, DType, void* packed) {
  const int64_t depth = padded_depth(k), columns = round_up(n, kColumns);
  uint8_t* out = static_cast<uint8_t*>(packed);
  float* scales = reinterpret_cast<float*>(out + columns * depth);
  for (int64_t col = 0; col < columns; ++col) {
    float peak = 0.f;
    for (int64_t i = 0; i < k && col < n; ++i) peak = std::max(peak, std::abs(w[col * k + i]));
    const float unit = unit_of(peak, 127.f);
    scales[col] = unit;
    uint8_t* panel = out + col / kColumns * kColumns * depth + col % kColumns * 4;
    for (int64_t i = 0; i < depth; ++i) {
      const float value = col < n && i < k ? std::nearbyint(w[col * k + i] / unit) : 0.f;
      panel[i / 4 * kColumns * 4 + i % 4] = uint8_t(int(value) + 128);
    }
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
  return least<int64_t>(round_up(a.n, kColumns) / kColumns, threads == 1 ? 1 : 6 * threads);
}

}  // namespace rtfm::cpu::RTFM_TIER
