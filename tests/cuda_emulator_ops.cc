// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda_emulator_ops.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "csrc/cuda/norm_body.h"
#include "csrc/cuda/pointwise_body.h"
#include "tests/cuda_emulator_groups.h"

namespace rtfm::testing {

using namespace rtfm::cuda;

namespace {

int64_t rows_of(int64_t rows, int64_t cols, int64_t stride, int64_t element) {
  return ((rows - 1) * stride + cols) * element;
}

// Sixteen partial sums: the compiler makes vectors of them.
float dot(const float* a, const float* b, int64_t count) {
  float sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int j = 0; j < 16; ++j) sums[j] += a[i + j] * b[i + j];
  for (int j = 0; i < count; ++i, ++j) sums[j] += a[i] * b[i];
  float total = 0;
  for (const float sum : sums) total += sum;
  return total;
}

float gelu_tanh(float x) {
  return 0.5f * x * (1.f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

// Room for `count` floats, one of a few: kept, so that a step allocates nothing here either.
float* scratch(size_t which, int64_t count) {
  thread_local std::vector<float> rooms[5];
  if (rooms[which].size() < size_t(count)) rooms[which].resize(size_t(count));
  return rooms[which].data();
}

void widen(const Half* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from_half(from[i]);
}

// What the 256 codes of e4m3 stand for.
std::array<float, 256> e4m3_values() {
  std::array<float, 256> values;
  for (int q = 0; q < 256; ++q) {
    const int exponent = q >> 3 & 15, mantissa = q & 7;
    const float size = exponent ? std::ldexp(8.f + float(mantissa), exponent - 10)
                                : std::ldexp(float(mantissa), -9);
    values[size_t(q)] = (q & 0x7f) == 0x7f ? NAN : q & 0x80 ? -size : size;
  }
  return values;
}

// As the kernel does it: values as e4m3 has them, NaN as -448; returns their unit.
float quantize_row(float* x, int64_t count) {
  float peak = 0;
  for (int64_t i = 0; i < count; ++i) peak = std::fmax(peak, std::fabs(x[i]));
  const float unit = peak > 0 ? peak / 448.f : 1.f;
  for (int64_t i = 0; i < count; ++i) {
    x[i] = std::fmin(std::fmax(x[i] / unit, -448.f), 448.f);
    int exponent;
    std::frexp(x[i], &exponent);
    const float place = std::ldexp(1.f, std::max(exponent, -5) - 4);
    x[i] = std::nearbyint(x[i] / place) * place;
  }
  return unit;
}

// The epilogue of one product of a row of x and a row of w.
void store(const MatmulArgs& a, int64_t row, int64_t col, float product) {
  const float result = product + (a.bias ? a.bias[col] : 0.f);
  const int64_t at = row * a.y_stride + col;
  float* y = static_cast<float*>(a.y) + at;
  Half* operand = static_cast<Half*>(a.y) + at;
  switch (a.epilogue) {
    case Epilogue::gelu:
      *operand = to_half(gelu_tanh(result));
      break;
    case Epilogue::gelu_erf:
      *operand = to_half(0.5f * result * (1.f + std::erf(0.70710678f * result)));
      break;
    case Epilogue::silu:
      *operand = to_half(result / (1.f + std::exp(-result)));
      break;
    case Epilogue::gated_residual:
      *y += (a.gate ? a.gate[col] : 1.f) * result;
      break;
    case Epilogue::store:
      *y = result;
      break;
    default:
      throw std::logic_error("an epilogue that no kernel has");
  }
}

}  // namespace

static std::array<Range, 5> matmul_ranges(const MatmulArgs& a, int64_t weight_bytes) {
  const bool f32 = a.epilogue == Epilogue::store || a.epilogue == Epilogue::gated_residual;
  const int64_t y = f32 ? 4 : 2;
  return {{{a.x, rows_of(a.rows, a.k, a.x_stride, 2)},
           {a.w, weight_bytes},
           {a.bias, a.bias ? a.n * 4 : 0},
           {a.gate, a.gate ? a.n * 4 : 0},
           {a.y, rows_of(a.rows, a.n, a.y_stride, y)}}};
}

std::array<Range, 5> ranges(const MatmulArgs& a) {
  return matmul_ranges(a, padded_rows(a.n) * padded_cols(a.k) * 2);
}
std::array<Range, 5> ranges(const QuantizedMatmul& a) {
  return matmul_ranges(a.args, e4m3_bytes(a.args.n, a.args.k) + a.args.n * 4);
}

std::array<Range, 4> ranges(const NormModulateArgs& a) {
  return {{{a.x, rows_of(a.rows, a.cols, a.x_stride, 4)},
           {a.scale, a.cols * 4},
           {a.shift, a.cols * 4},
           {a.y, rows_of(a.rows, a.cols, a.y_stride, 2)}}};
}

std::array<Range, 10> ranges(const QkvSplitArgs& a) {
  const int64_t angles = a.tokens * a.rope * 4, gain = a.dim * 4;
  const int64_t keys = a.k ? rows_of(a.tokens, a.kv_heads * a.dim, a.stride, 4) : 0;
  return {{{a.q, a.q ? rows_of(a.tokens, a.heads * a.dim, a.stride, 4) : 0},
           {a.k, keys},
           {a.v, keys},
           {a.q_gain, a.q_gain ? gain : 0},
           {a.k_gain, a.k_gain ? gain : 0},
           {a.cos, angles},
           {a.sin, angles},
           {a.query, a.q ? a.heads * padded_queries(a.tokens) * a.dim * 2 : 0},
           {a.slot, a.slot ? 2 * a.kv_heads * padded_keys(a.tokens) * a.dim * 2 : 0},
           {a.inputs, a.inputs ? int64_t(sizeof(StepInputs)) : 0}}};
}

std::array<Range, 2> ranges(const GatherArgs& a) {
  return {{{a.inputs, sizeof(StepInputs)}, {a.context, a.layers * a.slots * a.slot_bytes}}};
}

std::array<Range, 3> ranges(const AttentionArgs& a) {
  const int64_t slot = 2 * a.kv_heads * padded_keys(a.tokens) * a.dim * 2;
  return {{{a.q, a.heads * padded_queries(a.tokens) * a.dim * 2},
           {a.context, a.slots * slot},
           {a.y, rows_of(a.tokens, a.heads * a.dim, a.y_stride, 2)}}};
}

std::array<Range, 4> ranges(const SamplerArgs& a) {
  return {{{a.x, rows_of(a.rows, a.cols, a.x_stride, 4)},
           {a.x0, rows_of(a.rows, a.cols, a.x0_stride, 4)},
           {a.operand, a.operand ? rows_of(a.rows, a.cols, a.operand_stride, 2) : 0},
           {a.inputs, sizeof(StepInputs)}}};
}

template <class Args>
static std::array<Range, 2> patch_ranges(const Args& a, int64_t element) {
  const int64_t tokens = a.height / a.patch * (a.width / a.patch);
  return {{{a.image, a.height * a.width * 3},
           {a.tokens, rows_of(tokens, 3 * a.patch * a.patch, a.tokens_stride, element)}}};
}
std::array<Range, 2> ranges(const PatchifyArgs& a) { return patch_ranges(a, 2); }
std::array<Range, 2> ranges(const UnpatchifyArgs& a) { return patch_ranges(a, 4); }

void run(const MatmulArgs& a) {
  const int64_t stride = padded_cols(a.k);
  float *x = scratch(0, a.rows * a.k), *w = scratch(1, a.k);
  for (int64_t r = 0; r < a.rows; ++r)
    widen(static_cast<const Half*>(a.x) + r * a.x_stride, a.k, x + r * a.k);
  for (int64_t n = 0; n < a.n; ++n) {
    widen(static_cast<const Half*>(a.w) + n * stride, a.k, w);
    for (int64_t r = 0; r < a.rows; ++r) store(a, r, n, dot(x + r * a.k, w, a.k));
  }
}

void run(const QuantizedMatmul& quantized) {
  static const std::array<float, 256> values = e4m3_values();
  const MatmulArgs& a = quantized.args;
  const int64_t stride = padded_cols_e4m3(a.k);
  const uint8_t* rows = static_cast<const uint8_t*>(a.w);
  const float* w_scales = reinterpret_cast<const float*>(rows + e4m3_bytes(a.n, a.k));
  float *x = scratch(0, a.rows * a.k), *w = scratch(1, a.k), *x_scales = scratch(2, a.rows);
  for (int64_t r = 0; r < a.rows; ++r) {
    widen(static_cast<const Half*>(a.x) + r * a.x_stride, a.k, x + r * a.k);
    x_scales[r] = quantize_row(x + r * a.k, a.k);
  }
  for (int64_t n = 0; n < a.n; ++n) {
    for (int64_t i = 0; i < a.k; ++i) w[i] = values[rows[n * stride + i]];
    for (int64_t r = 0; r < a.rows; ++r)
      store(a, r, n, dot(x + r * a.k, w, a.k) * x_scales[r] * w_scales[n]);
  }
}

void run(const NormModulateArgs& a) {
  if (cuda_emulation().blocks == Blocks::serial) {
    Serial serial;
    for (int64_t row = 0; row < a.rows; ++row)
      norm_modulate_row<2048>(serial, a, row, rows_aligned(a));
    return;
  }
  with_row_shape(a.cols, [&](auto quads, int threads) {
    if constexpr (quads > 0)
      run_groups(a.rows, threads, [&](int64_t row, auto& group) {
        norm_modulate_row<quads>(group, a, row, rows_aligned(a));
      });
  });
}

void run(const QkvSplitArgs& a) {
  const auto split = [&](int64_t unit, auto& group) {
    split_head(group, a, unit / a.heads, unit % a.heads);
  };
  if (cuda_emulation().blocks != Blocks::serial) return run_groups(a.tokens * a.heads, 32, split);
  Serial serial;
  for (int64_t unit = 0; unit < a.tokens * a.heads; ++unit) split(unit, serial);
}

void run(const GatherArgs& a) {
  for (int64_t page = 0; page < a.pages; ++page)
    for (int64_t layer = 0; layer < a.layers; ++layer)
      for (int64_t octet = 0; octet < gather_octets(a); ++octet)
        gather_octet(a, layer, page, octet);
}

// Weights are rounded to bf16 before they meet the values, as tensor cores take them.
void run(const AttentionArgs& a) {
  const int64_t padded = padded_keys(a.tokens), head_size = padded * a.dim;
  const int64_t keys = a.slots * a.tokens, dim = a.dim;
  float *k = scratch(0, keys * dim), *v = scratch(1, keys * dim), *q = scratch(2, dim);
  float *weights = scratch(3, keys), *y = scratch(4, dim);
  for (int64_t head = 0; head < a.heads; ++head) {
    for (int64_t s = 0; s < a.slots; ++s) {
      const Half* slot = static_cast<const Half*>(a.context) + s * 2 * a.kv_heads * head_size;
      const int64_t kv_head = head * a.kv_heads / a.heads;
      widen(slot + kv_head * head_size, a.tokens * dim, k + s * a.tokens * dim);
      widen(slot + (a.kv_heads + kv_head) * head_size, a.tokens * dim, v + s * a.tokens * dim);
    }
    for (int64_t token = 0; token < a.tokens; ++token) {
      const int64_t row = head * padded_queries(a.tokens) + token;
      widen(static_cast<const Half*>(a.q) + row * dim, dim, q);
      for (int64_t j = 0; j < keys; ++j) weights[j] = dot(q, k + j * dim, dim);
      const float top = *std::max_element(weights, weights + keys);
      float total = 0;
      std::fill_n(y, dim, 0.f);
      for (int64_t j = 0; j < keys; ++j) {
        const float weight = std::exp2(weights[j] - top);
        const float rounded = from_half(to_half(weight));
        total += weight;
        for (int64_t d = 0; d < dim; ++d) y[d] += rounded * v[j * dim + d];
      }
      Half* out = static_cast<Half*>(a.y) + token * a.y_stride + head * dim;
      for (int64_t d = 0; d < dim; ++d) out[d] = to_half(y[d] / total);
    }
  }
}

void run(const SamplerArgs& a) {
  for (int64_t group = 0; group < (a.rows * a.cols + 3) / 4; ++group) sampler_group(a, group);
}

void run(const PatchifyArgs& a) {
  for (int64_t at = 0; at < a.height * a.width * 3; ++at) patchify_value(a, at);
}

void run(const UnpatchifyArgs& a) {
  for (int64_t at = 0; at < a.height * a.width * 3; ++at) unpatchify_value(a, at);
}

}  // namespace rtfm::testing
