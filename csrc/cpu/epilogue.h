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
    const auto put_operand = [&](auto activation) {
      Operand* y = static_cast<Operand*>(a.y) + at;
      for_each_vector(
          cols, [&](int64_t j, int64_t n) { store_some(y + j, activation(biased(j, n)), n); });
    };
    const auto put = [&](auto activation) {
      float* y = static_cast<float*>(a.y) + at;
      for_each_vector(
          cols, [&](int64_t j, int64_t n) { store_some(y + j, activation(biased(j, n)), n); });
    };
    switch (a.epilogue) {
      case Epilogue::gelu:
        put_operand([](vf x) { return gelu_tanh(x); });
        break;
      case Epilogue::gelu_erf:
        put_operand([](vf x) { return gelu_erf(x); });
        break;
      case Epilogue::silu:
        put_operand([](vf x) { return silu(x); });
        break;
      case Epilogue::relu:
        put_operand([](vf x) { return max(x, vf{}); });
        break;
      case Epilogue::operand:
        put_operand([](vf x) { return x; });
        break;
      case Epilogue::residual_relu: {
        const Operand* x =
            static_cast<const Operand*>(a.residual) + (row + r) * a.residual_stride + col;
        Operand* y = static_cast<Operand*>(a.y) + at;
        for_each_vector(cols, [&](int64_t j, int64_t n) {
          store_some(y + j, max(load_some(x + j, n) + biased(j, n), vf{}), n);
        });
        break;
      }
      case Epilogue::signed_sigmoid:
        put([](vf x) { return signed_sigmoid(x); });
        break;
      case Epilogue::store:
        put([](vf x) { return x; });
        break;
      case Epilogue::gated_residual: {
        float* y = static_cast<float*>(a.y) + at;
        for_each_vector(cols, [&](int64_t j, int64_t n) {
          const vf gate = a.gate ? load_some(a.gate + col + j, n) : splat(1.f);
          store_some(y + j, load_some(y + j, n) + gate * biased(j, n), n);
        });
        break;
      }
    }
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
