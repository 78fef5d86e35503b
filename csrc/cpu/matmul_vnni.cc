// SPDX-License-Identifier: Apache-2.0
// int8 matmul of the VNNI tier. Weights have a scale for each output channel, rows of x one each,
// made as they come. Weights are packed [n/32, k/4, 32 columns, 4] as w + 128, then their scales [n
// padded].
#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "csrc/cpu/epilogue.h"
#include "csrc/cpu/matmul.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kColumns = 32;
constexpr int kRows = 14;           // 28 accumulators of 32 registers
constexpr int64_t kBlockRows = 56;  // rows of x that stay near while the panels pass
constexpr int64_t kAhead = 8;       // groups of k that are fetched ahead
constexpr float kMost = 127.f;

// Behind the values of a quantized row.
struct RowEnd {
  float scale;
  int32_t sum;  // of the values
};

static int64_t padded_depth(int64_t k) { return round_up(k, 64); }
static float unit_of(float peak) { return peak > 0 ? peak / kMost : 1.f; }

int64_t weight_bytes(int64_t n, int64_t k) {
  return round_up(n, kColumns) * (padded_depth(k) + int64_t(sizeof(float)));
}

void pack_weight(const float* w, int64_t n, int64_t k, void* packed) {
  const int64_t depth = padded_depth(k), columns = round_up(n, kColumns);
  uint8_t* out = static_cast<uint8_t*>(packed);
  float* scales = reinterpret_cast<float*>(out + columns * depth);
  for (int64_t col = 0; col < columns; ++col) {
    float peak = 0.f;
    for (int64_t i = 0; i < k && col < n; ++i) peak = std::max(peak, std::abs(w[col * k + i]));
    const float unit = unit_of(peak);
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

// q = round(x / scale), scale = max|x| / 127; zeros up to the padded depth, then its RowEnd.
void quantize(const QuantizeArgs& a, int64_t task, int64_t tasks) {
  const int64_t depth = padded_depth(a.cols);
  for (int64_t row = a.rows * task / tasks; row < a.rows * (task + 1) / tasks; ++row) {
    const float* x = a.x + row * a.x_stride;
    int8_t* q = static_cast<int8_t*>(a.q) + row * quantized_stride(a.cols);
    vf peaks{};
    for_each_vector(a.cols, [&](int64_t j, int64_t n) {
      const vf v = load_some(x + j, n);
      peaks = max(peaks, max(v, -v));
    });
    const float unit = unit_of(_mm512_reduce_max_ps((__m512)peaks));
    const vf inverse = splat(1.f / unit);
    __m512i sums = _mm512_setzero_si512();
    for (int64_t j = 0; j < depth; j += VL) {
      const vf v = j < a.cols ? load_some(x + j, least<int64_t>(VL, a.cols - j)) * inverse : vf{};
      const __m512i values = _mm512_cvtps_epi32((__m512)v);
      sums = _mm512_add_epi32(sums, values);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + j), _mm512_cvtsepi32_epi8(values));
    }
    const RowEnd end{unit, _mm512_reduce_add_epi32(sums)};
    std::memcpy(q + depth, &end, sizeof end);
  }
}

int64_t matmul_tasks(const MatmulArgs& a, int threads) {
  return least<int64_t>(round_up(a.n, kColumns) / kColumns, threads == 1 ? 1 : 6 * threads);
}

// y[R, 32] = x[R, k] · w[32, k]ᵀ with all scales; x: rows of quantize(), w: one panel.
template <int R>
static void strip(const int8_t* x, int64_t stride, int64_t depth, const uint8_t* w,
                  const float* scales, float* y) {
  __m512i acc[R][2];
  for (auto& row : acc) row[0] = row[1] = _mm512_setzero_si512();
#pragma GCC unroll 1
  for (int64_t i = 0; i < depth / 4; ++i) {
    const uint8_t* group = w + i * kColumns * 4;
    __builtin_prefetch(group + kAhead * kColumns * 4);
    __builtin_prefetch(group + kAhead * kColumns * 4 + 64);
    const __m512i w0 = _mm512_loadu_si512(group), w1 = _mm512_loadu_si512(group + 64);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t four;
      std::memcpy(&four, x + r * stride + i * 4, 4);
      const __m512i values = _mm512_set1_epi32(four);
      acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], w0, values);
      acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], w1, values);
    }
  }
  for (int r = 0; r < R; ++r) {
    RowEnd end;
    std::memcpy(&end, x + r * stride + depth, sizeof end);
    const __m512i offset = _mm512_set1_epi32(128 * end.sum);
    for (int v = 0; v < 2; ++v) {
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc[r][v], offset));
      store(y + r * kColumns + v * VL, (vf)exact * end.scale * load(scales + v * VL));
    }
  }
}

template <int R = kRows>
static void multiply(int64_t rows, const int8_t* x, int64_t stride, int64_t depth, const uint8_t* w,
                     const float* scales, float* y) {
  if constexpr (R > 0) {
    if (rows == R)
      strip<R>(x, stride, depth, w, scales, y);
    else
      multiply<R - 1>(rows, x, stride, depth, w, scales, y);
  }
}

void matmul(const MatmulArgs& a, int64_t task, int64_t tasks) {
  const int64_t panels = round_up(a.n, kColumns) / kColumns, depth = padded_depth(a.k);
  const int64_t first = panels * task / tasks, last = panels * (task + 1) / tasks;
  const int8_t* x = static_cast<const int8_t*>(a.x);
  const uint8_t* w = static_cast<const uint8_t*>(a.w);
  const float* scales = reinterpret_cast<const float*>(w + panels * kColumns * depth);
  alignas(64) float tile[kRows * kColumns];
  for (int64_t block = 0; block < a.rows; block += kBlockRows)
    for (int64_t p = first; p < last; ++p)
      for (int64_t m = block; m < least(block + kBlockRows, a.rows); m += kRows) {
        const int64_t rows = least<int64_t>(kRows, a.rows - m);
        multiply(rows, x + m * a.x_stride, a.x_stride, depth, w + p * kColumns * depth,
                 scales + p * kColumns, tile);
        apply_epilogue(a, tile, kColumns, m, rows, p * kColumns, kColumns);
      }
}

}  // namespace rtfm::cpu::RTFM_TIER
