// SPDX-License-Identifier: Apache-2.0
// The memory-bound ops around attention: norm + modulate, QK-norm + RoPE + storing, page gather.
#pragma once

#include <type_traits>

#include "csrc/cuda/body.h"
#include "csrc/cuda/layout.h"

namespace rtfm::cuda {

constexpr float kLog2E = 1.44269504f;
constexpr int kRowThreads = 512;  // the most for one row of norm_modulate

// f(kQuads, threads) for the launch of norm_modulate_row; kQuads as a constant, 0 if cols is beyond
// what a manifest allows.
template <class F>
auto with_row_shape(int64_t cols, const F& f) {
  const int64_t quads = (cols + 3) / 4;
  const auto threads = [&](int64_t each) { return int(round_up(quads, 32 * each) / each); };
  if (quads <= kRowThreads) return f(std::integral_constant<int, 1>{}, threads(1));
  if (quads <= 2 * kRowThreads) return f(std::integral_constant<int, 2>{}, threads(2));
  if (quads <= 4 * kRowThreads) return f(std::integral_constant<int, 4>{}, threads(4));
  return f(std::integral_constant<int, 0>{}, 0);
}

inline bool rows_aligned(const NormModulateArgs& a) {
  const auto on_16_bytes = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return a.cols % 4 == 0 && a.x_stride % 4 == 0 && on_16_bytes(a.x) && on_16_bytes(a.scale) &&
         on_16_bytes(a.shift);
}

// A group per row; each thread keeps kQuads · 4 values of it, so cols <= threads · kQuads · 4.
// aligned: as rows_aligned says.
template <int kQuads, class Group>
RTFM_BODY void norm_modulate_row(Group& g, const NormModulateArgs& a, int64_t row, bool aligned) {
  const float* x = a.x + row * a.x_stride;
  Quad values[kQuads], scale[kQuads], shift[kQuads];
  float squares = 0.f;
  for (int i = 0; i < kQuads; ++i) {  // all loads before the first use
    const int64_t col = 4 * (int64_t(i) * g.threads() + g.thread()), left = a.cols - col;
    values[i] = load_quad(x + col, left, aligned);
    scale[i] = load_quad(a.scale + col, left, aligned);
    shift[i] = load_quad(a.shift + col, left, aligned);
    for (int j = 0; j < 4; ++j) squares += values[i].v[j] * values[i].v[j];
  }
  const float inverse = 1.f / sqrtf(sum(g, squares) / float(a.cols) + a.eps);
  HalfQuad* y = reinterpret_cast<HalfQuad*>(static_cast<Half*>(a.y) + row * a.y_stride);
  for (int i = 0; i < kQuads; ++i) {
    const int64_t quad = int64_t(i) * g.threads() + g.thread();
    HalfQuad out;
    for (int j = 0; j < 4; ++j)
      out.v[j] = to_half(values[i].v[j] * inverse * scale[i].v[j] + shift[i].v[j]);
    if (4 * quad < a.cols)
      y[quad] = out;  // beyond cols: 0 · inverse · 0 + 0, the padding's own zeros
  }
}

// y(d, value) for all d: rope(rms(x) * gain) * scale. Each thread turns pairs of its own.
template <class Group, class Put>
RTFM_BODY void norm_rope(Group& g, const float* x, const float* gain, const float* cos,
                         const float* sin, int dim, float eps, float scale, const Put& y) {
  float squares = 0.f;
  for (int d = g.thread(); d < dim; d += g.threads()) squares += x[d] * x[d];
  const float inverse = 1.f / sqrtf(sum(g, squares) / float(dim) + eps) * scale;
  const int quarter = dim / 4;
  for (int i = g.thread(); i < quarter; i += g.threads()) {
    const int b = i + quarter, c = i + 2 * quarter, d = i + 3 * quarter;
    const float u = x[c] * inverse * gain[c], v = x[d] * inverse * gain[d];
    y(i, to_half(x[i] * inverse * gain[i]));
    y(b, to_half(x[b] * inverse * gain[b]));
    y(c, to_half(u * cos[i] - v * sin[i]));
    y(d, to_half(u * sin[i] + v * cos[i]));
  }
}

// A group of one warp per token and head. Scores are powers of two, hence kLog2E.
template <class Group>
RTFM_BODY void split_head(Group& g, const QkvSplitArgs& a, int64_t token, int64_t head) {
  const int dim = int(a.dim);
  const int64_t width = a.heads * a.dim;
  const float* x = a.qkv + token * a.qkv_stride + head * a.dim;
  const float *cos = a.cos + token * (a.dim / 4), *sin = a.sin + token * (a.dim / 4);

  Half* q = static_cast<Half*>(a.q) + (head * padded_queries(a.tokens) + token) * a.dim;
  norm_rope(g, x, a.q_gain, cos, sin, dim, a.eps, kLog2E / sqrtf(float(dim)),
            [&](int d, Half value) { q[d] = value; });

  const int64_t keys = a.heads * padded_keys(a.tokens) * a.dim, half = a.heads * a.tokens * a.dim;
  Half* slot = static_cast<Half*>(a.slot) + (head * padded_keys(a.tokens) + token) * a.dim;
  Half* page = nullptr;
  if (a.inputs)
    page =
        static_cast<Half*>(a.inputs->page) + 2 * a.layer * half + (head * a.tokens + token) * a.dim;
  norm_rope(g, x + width, a.k_gain, cos, sin, dim, a.eps, 1.f, [&](int d, Half value) {
    slot[d] = value;
    if (page) page[d] = value;
  });
  for (int d = g.thread(); d < dim; d += g.threads()) {
    const Half value = to_half(x[2 * width + d]);
    slot[keys + d] = value;
    if (page) page[half + d] = value;
  }
}

RTFM_BODY int64_t gather_octets(const GatherArgs& a) { return 2 * a.heads * a.tokens * a.dim / 8; }

// Eight values of one page and layer: octet 0 .. gather_octets-1 of K, then of V.
RTFM_BODY void gather_octet(const GatherArgs& a, int64_t layer, int64_t page, int64_t octet) {
  const int64_t per_head = a.tokens * a.dim / 8, part = octet / per_head;  // part: heads of K, of V
  const HalfOctet* from = static_cast<const HalfOctet*>(a.inputs->pages[page]);
  char* slot = static_cast<char*>(a.context) + (layer * a.slots + 1 + page) * a.slot_bytes;
  HalfOctet* to = reinterpret_cast<HalfOctet*>(slot) + part * padded_keys(a.tokens) * a.dim / 8;

  HalfOctet values = from[layer * gather_octets(a) + octet];
  const int64_t first = octet * 8 % a.dim;
  const float* m = a.inputs->transforms[page];
  for (int at = 0; at < 8; at += 4) {
    if (first + at >= a.dim / 2) continue;
    float in[4];
    for (int i = 0; i < 4; ++i) in[i] = from_half(values.v[at + i]);
    for (int r = 0; r < 4; ++r)
      values.v[at + r] = to_half(m[4 * r] * in[0] + m[4 * r + 1] * in[1] + m[4 * r + 2] * in[2] +
                                 m[4 * r + 3] * in[3]);
  }
  to[octet % per_head] = values;
}

}  // namespace rtfm::cuda
