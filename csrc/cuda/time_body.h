// SPDX-License-Identifier: Apache-2.0
// Attention over time: a few keys for each query, which a warp takes one after the other.
#pragma once

#include <cfloat>

#include "csrc/cuda/body.h"

namespace rtfm::cuda {

constexpr int kTimePairs = 4;  // that a thread of a warp keeps: dim <= 256

// A group per token and head; each thread keeps kPairs pairs of dims, so dim <= threads · kPairs ·
// 2. With pairs (a, b) as complex numbers, a score is the real part of q · conj(k) · e^(i·angle).
template <int kPairs, class Group>
RTFM_BODY void attend_in_time(Group& g, const TimeAttentionArgs& a, int64_t token, int64_t head) {
  const int half = int(a.dim / 2);
  const int64_t width = a.heads * a.dim, values = a.tokens * width;  // values: where V begins
  const int64_t in_page = 2 * a.layer * values + token * width + head * a.dim;
  const int64_t at = token * a.stride + head * a.dim;
  const float *q = a.q + at, *k = a.k + at, *v = a.v + at;
  if (a.inputs->page) {
    Half* page = static_cast<Half*>(a.inputs->page) + in_page;
    for (int d = g.thread(); d < 2 * half; d += g.threads())
      page[d] = to_half(k[d]), page[values + d] = to_half(v[d]);
  }
  if (!a.y) return;

  struct Pair {
    float a, b;
  };
  Pair query[kPairs], out[kPairs];
  const auto for_each_pair = [&](const auto& f) {
    for (int p = 0; p < kPairs; ++p) {
      const int d = p * g.threads() + g.thread();
      if (d < half) f(p, d);
    }
  };
  for_each_pair([&](int p, int d) { query[p] = {q[d], q[half + d]}, out[p] = {0.f, 0.f}; });
  const float scale = kLog2E / sqrtf(float(a.dim));
  float top = -FLT_MAX, total = 0.f;

  // key(d), value(d): of the frame whose angles are in row `frame`
  const auto see = [&](int64_t frame, const auto& key, const auto& value) {
    const float *cos = a.cos + frame * half, *sin = a.sin + frame * half;
    float score = 0.f;
    for_each_pair([&](int p, int d) {
      const Pair x = query[p], y = {key(d), key(half + d)};
      score += cos[d] * (x.a * y.a + x.b * y.b) + sin[d] * (x.a * y.b - x.b * y.a);
    });
    score = sum(g, score) * scale;
    const float peak = fmaxf(top, score), shrink = exp2f(top - peak), weight = exp2f(score - peak);
    total = total * shrink + weight, top = peak;
    for_each_pair([&](int p, int d) {
      out[p].a = out[p].a * shrink + weight * value(d);
      out[p].b = out[p].b * shrink + weight * value(half + d);
    });
  };
  see(0, [&](int d) { return k[d]; }, [&](int d) { return v[d]; });
  for (int64_t i = 0; i < a.pages; ++i) {
    const Half* page = static_cast<const Half*>(a.inputs->pages[i]) + in_page;
    see(
        1 + i, [&](int d) { return from_half(page[d]); },
        [&](int d) { return from_half(page[values + d]); });
  }
  Half* y = static_cast<Half*>(a.y) + token * a.y_stride + head * a.dim;
  for_each_pair([&](int p, int d) {
    y[d] = to_half(out[p].a / total), y[half + d] = to_half(out[p].b / total);
  });
}

}  // namespace rtfm::cuda
