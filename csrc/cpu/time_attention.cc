// SPDX-License-Identifier: Apache-2.0
// Attention over time, one token after the other: a few keys for each query, so what it takes is to
// read the pages once, row by row.
#include "csrc/cpu/time_attention.h"

#include <cmath>

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kMaxHeads = 128, kMaxWidth = 8192;  // the model reader enforces them
constexpr float kLog2E = 1.44269504f;

// scores[h] = q · k of each head, k turned back by the angles: with pairs (a, b) as complex numbers
// the real part of q · conj(k) · e^(i·angle)
template <class T>
RTFM_INLINE void score(const TimeAttentionArgs& a, const float* q, const T* k, int64_t row,
                       float scale, float* scores) {
  const int64_t half = a.dim / 2;
  const float *cos = a.cos + row * half, *sin = a.sin + row * half;
  for (int64_t h = 0; h < a.heads; ++h, q += a.dim, k += a.dim) {
    vf total{};
    for_each_vector(half, [&](int64_t j, int64_t n) {
      const vf qa = load_some(q + j, n), qb = load_some(q + half + j, n);
      const vf ka = load_some(k + j, n), kb = load_some(k + half + j, n);
      total += load_some(cos + j, n) * (qa * ka + qb * kb);
      total += load_some(sin + j, n) * (qa * kb - qb * ka);
    });
    scores[h] = sum(total) * scale;
  }
}

// scores[rows, kMaxHeads] (powers of two) -> weights of sum 1 over the rows, in place
RTFM_INLINE void softmax_rows(float* scores, int64_t rows, int64_t heads) {
  for_each_vector(heads, [&](int64_t j, int64_t n) {
    vf top = load_some(scores + j, n), total{};
    for (int64_t r = 1; r < rows; ++r) top = max(top, load_some(scores + r * kMaxHeads + j, n));
    for (int64_t r = 0; r < rows; ++r) {
      const vf w = exp2(load_some(scores + r * kMaxHeads + j, n) - top);
      store_some(scores + r * kMaxHeads + j, w, n);
      total += w;
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* w = scores + r * kMaxHeads + j;
      store_some(w, load_some(w, n) / total, n);
    }
  });
}

// out += weight · v, head by head
template <class T>
RTFM_INLINE void add_values(const TimeAttentionArgs& a, const float* weights, const T* v,
                            float* out) {
  for (int64_t h = 0; h < a.heads; ++h, v += a.dim, out += a.dim)
    for_each_vector(a.dim, [&](int64_t j, int64_t n) {
      store_some(out + j, load_some(out + j, n) + load_some(v + j, n) * weights[h], n);
    });
}

int64_t time_attention_tasks(const TimeAttentionArgs& a, int) { return a.tokens; }

void time_attention(const TimeAttentionArgs& a, int64_t token, int64_t) {
  const int64_t width = a.heads * a.dim, half = a.tokens * width;  // of a layer of a page
  const int64_t at = 2 * a.layer * half + token * width;
  const float *q = a.q + token * a.stride, *k = a.k + token * a.stride, *v = a.v + token * a.stride;
  if (a.inputs->page) {
    Operand* page = static_cast<Operand*>(a.inputs->page) + at;
    copy_row(k, width, page);
    copy_row(v, width, page + half);
  }
  if (!a.y) return;
  alignas(64) float scores[(1 + kMaxPages) * kMaxHeads], out[kMaxWidth];
  const float scale = kLog2E / std::sqrt(float(a.dim));
  const auto page = [&](int64_t i) { return static_cast<const Operand*>(a.inputs->pages[i]) + at; };
  score(a, q, k, 0, scale, scores);
  for (int64_t i = 0; i < a.pages; ++i)
    score(a, q, page(i), 1 + i, scale, scores + (1 + i) * kMaxHeads);
  softmax_rows(scores, 1 + a.pages, a.heads);
  std::memset(out, 0, size_t(width) * 4);
  add_values(a, scores, v, out);
  for (int64_t i = 0; i < a.pages; ++i)
    add_values(a, scores + (1 + i) * kMaxHeads, page(i) + half, out);
  copy_row(out, width, static_cast<Operand*>(a.y) + token * a.y_stride);
}

}  // namespace rtfm::cpu::RTFM_TIER
