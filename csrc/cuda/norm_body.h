// SPDX-License-Identifier: Apache-2.0
// The memory-bound ops around attention: norm + modulate, QK-norm + RoPE + storing, page gather.
#pragma once

#include <type_traits>

#include "csrc/cuda/body.h"
#include "csrc/cuda/layout.h"

namespace rtfm::cuda {

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
  }
  float centre = 0.f;
  if (a.norm == Norm::layer) {
    for (int i = 0; i < kQuads; ++i)
      for (int j = 0; j < 4; ++j) centre += values[i].v[j];
    centre = sum(g, centre) / float(a.cols);
  }
  for (int i = 0; i < kQuads; ++i) {
    const int64_t col = 4 * (int64_t(i) * g.threads() + g.thread());
    for (int j = 0; j < 4; ++j) {
      values[i].v[j] = col + j < a.cols ? values[i].v[j] - centre : 0.f;
      squares += values[i].v[j] * values[i].v[j];
    }
  }
  const float inverse = 1.f / sqrtf(sum(g, squares) / float(a.cols) + a.eps);
  HalfQuad* to = reinterpret_cast<HalfQuad*>(static_cast<Half*>(a.y) + row * a.y_stride);
  for (int i = 0; i < kQuads; ++i) {
    const int64_t quad = int64_t(i) * g.threads() + g.thread();
    HalfQuad out;
    for (int j = 0; j < 4; ++j) {
      const float y = values[i].v[j] * inverse * scale[i].v[j] + shift[i].v[j];
      out.v[j] = to_half(a.activation == Activation::silu ? y / (1.f + expf(-y)) : y);
    }
    if (4 * quad < a.cols)
      to[quad] = out;  // beyond cols: 0 · inverse · 0 + 0, the padding's own zeros
  }
}

// y(d, value) for all d: rope(rms(x) * gain) * scale; gain null for no norm. Each thread turns
// pairs of its own.
template <class Group, class Put>
RTFM_BODY void norm_rope(Group& g, const float* x, const float* gain, const float* cos,
                         const float* sin, int dim, int rope, float eps, float scale,
                         const Put& y) {
  if (gain) {
    float squares = 0.f;
    for (int d = g.thread(); d < dim; d += g.threads()) squares += x[d] * x[d];
    scale *= 1.f / sqrtf(sum(g, squares) / float(dim) + eps);
  }
  const auto normed = [&](int d) { return x[d] * scale * (gain ? gain[d] : 1.f); };
  const int still = dim - 2 * rope;
  for (int d = g.thread(); d < still; d += g.threads()) y(d, to_half(normed(d)));
  for (int i = g.thread(); i < rope; i += g.threads()) {
    const float u = normed(still + i), v = normed(still + rope + i);
    y(still + i, to_half(u * cos[i] - v * sin[i]));
    y(still + rope + i, to_half(u * sin[i] + v * cos[i]));
  }
}

// A group of one warp per token and head. Scores are powers of two, hence kLog2E.
template <class Group>
RTFM_BODY void split_head(Group& g, const QkvSplitArgs& a, int64_t token, int64_t head) {
  const int dim = int(a.dim), rope = int(a.rope);
  const int64_t at = token * a.stride + head * a.dim;
  const float *cos = a.cos + token * a.rope, *sin = a.sin + token * a.rope;
  if (a.q) {
    Half* q = static_cast<Half*>(a.query) + (head * padded_queries(a.tokens) + token) * a.dim;
    norm_rope(g, a.q + at, a.q_gain, cos, sin, dim, rope, a.eps, kLog2E / sqrtf(float(dim)),
              [&](int d, Half value) { q[d] = value; });
  }
  if (!a.k || head >= a.kv_heads) return;

  const int64_t keys = a.kv_heads * padded_keys(a.tokens) * a.dim,
                half = a.kv_heads * a.tokens * a.dim;
  Half *slot = nullptr, *page = nullptr;
  if (a.slot) slot = static_cast<Half*>(a.slot) + (head * padded_keys(a.tokens) + token) * a.dim;
  if (a.inputs)
    page =
        static_cast<Half*>(a.inputs->page) + 2 * a.layer * half + (head * a.tokens + token) * a.dim;
  const auto put = [&](Half value, int64_t in_slot, int64_t in_page) {
    if (slot) slot[in_slot] = value;
    if (page) page[in_page] = value;
  };
  norm_rope(g, a.k + at, a.k_gain, cos, sin, dim, rope, a.eps, 1.f,
            [&](int d, Half value) { put(value, d, d); });
  for (int d = g.thread(); d < dim; d += g.threads()) put(to_half(a.v[at + d]), keys + d, half + d);
}

RTFM_BODY int64_t gather_octets(const GatherArgs& a) { return 2 * a.heads * a.tokens * a.dim / 8; }

// Eight values of one page and layer: octet 0 .. gather_octets-1 of K, then of V.
RTFM_BODY void gather_octet(const GatherArgs& a, int64_t layer, int64_t page, int64_t octet) {
  const int64_t per_head = a.tokens * a.dim / 8, part = octet / per_head;  // part: heads of K, of V
  const HalfOctet* from = static_cast<const HalfOctet*>(a.inputs->pages[a.first_page + page]);
  char* slot = static_cast<char*>(a.context) + (layer * a.slots + 1 + page) * a.slot_bytes;
  HalfOctet* to = reinterpret_cast<HalfOctet*>(slot) + part * padded_keys(a.tokens) * a.dim / 8;

  HalfOctet values = from[(a.first_layer + layer) * gather_octets(a) + octet];
  const int64_t first = octet * 8 % a.dim;
  const float* m = a.inputs->transforms[a.first_page + page];
  for (int at = 0; at < 8; at += 4) {
    if (first + at >= a.camera_dims) continue;
    float in[4];
    for (int i = 0; i < 4; ++i) in[i] = from_half(values.v[at + i]);
    for (int r = 0; r < 4; ++r)
      values.v[at + r] = to_half(m[4 * r] * in[0] + m[4 * r + 1] * in[1] + m[4 * r + 2] * in[2] +
                                 m[4 * r + 3] * in[3]);
  }
  to[octet % per_head] = values;
}

}  // namespace rtfm::cuda
