// SPDX-License-Identifier: Apache-2.0
// What happens to a finished tile of a matmul before it leaves the core.
#pragma once

#include "csrc/backend.h"
#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

// tile[rows, up to `cols`] holds x·wᵀ for y[row..., col...].
static inline void apply_epilogue(const MatmulArgs& a, const float* tile, int64_t tile_stride,
                                  int64_t row, int64_t rows, int64_t col, int64_t cols) {
  cols = least(cols, a.n - col);
  for (int64_t r = 0; r < rows; ++r) {
    const float* t = tile + r * tile_stride;
    const int64_t at = (row + r) * a.y_stride + col;
    const auto biased = [&](int64_t j, int64_t count) {
      const vf v = load_some(t + j, count);
      return a.bias ? v + load_some(a.bias + col + j, count) : v;
    };
    switch (a.epilogue) {
      case Epilogue::store: {
        float* y = static_cast<float*>(a.y) + at;
        for_each_vector(cols, [&](int64_t j, int64_t n) { store_some(y + j, biased(j, n), n); });
        break;
      }
      case Epilogue::gelu: {
        Operand* y = static_cast<Operand*>(a.y) + at;
        for_each_vector(
            cols, [&](int64_t j, int64_t n) { store_some(y + j, gelu_tanh(biased(j, n)), n); });
        break;
      }
      case Epilogue::gated_residual: {
        float* y = static_cast<float*>(a.y) + at;
        const float* gate = a.gate + col;
        for_each_vector(cols, [&](int64_t j, int64_t n) {
          store_some(y + j, load_some(y + j, n) + load_some(gate + j, n) * biased(j, n), n);
        });
        break;
      }
    }
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
