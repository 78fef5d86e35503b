// SPDX-License-Identifier: Apache-2.0
// f32 attention of the portable, AVX2 and AVX-512 tiers: online softmax over chunks of keys.
// A running maximum is needed in spite of QK-norm: a far camera's transform lengthens its keys
// freely.
#include "csrc/cpu/attention.h"

#include <cmath>

#include "csrc/cpu/slot.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kChunk = 128;  // keys whose scores are held at a time; a multiple of every NR
constexpr int64_t kMaxDepth = 256;

int64_t attention_tasks(const AttentionArgs& a, int) {
  return a.heads * (round_up(a.tokens, MR) / MR);
}

// What the softmax of a strip has come to, row by row; padded so that a vector holds whole rows.
struct Softmax {
  static constexpr int64_t kRows = (MR + VL - 1) / VL * VL;
  alignas(64) float top[kRows], factor[kRows];  // factor: for what came before the last chunk
  vf total[MR];                                 // of weights, each lane its own keys
};

// Turns scores[rows, kChunk], powers of two, into weights in place.
RTFM_INLINE void softmax_chunk(float* scores, int64_t rows, int64_t keys, Softmax& s) {
  const int64_t padded = round_up(keys, VL);
  alignas(64) float peak[Softmax::kRows];
  for (float& p : peak) p = -INFINITY;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * kChunk;
    for (int64_t j = keys; j < padded; ++j) row[j] = -INFINITY;
    vf highest = load(row);
    for (int64_t j = VL; j < padded; j += VL) highest = max(highest, load(row + j));
    peak[r] = highest_of(highest);
  }
  for (int64_t r = 0; r < Softmax::kRows; r += VL) {
    const vf before = load(s.top + r), now = max(before, load(peak + r));
    store(s.factor + r, exp2(before - now));
    store(s.top + r, now);
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * kChunk;
    const vf offset = splat(s.top[r]);
    vf weights{};
    for (int64_t j = 0; j < padded; j += VL) {
      const vf w = exp2(load(row + j) - offset);
      store(row + j, w);
      weights += w;
    }
    s.total[r] = s.total[r] * s.factor[r] + weights;
  }
}

void attention(const AttentionArgs& a, int64_t task, int64_t) {
  const SlotLayout layout(a.kv_heads, a.tokens, a.dim);
  // head by head, so that the keys and values of one stay near while its strips pass
  const int64_t strips = round_up(a.tokens, MR) / MR;
  const int64_t head = task / strips, first = task % strips * MR;
  const int64_t kv_head = head * a.kv_heads / a.heads;
  const int64_t rows = least<int64_t>(MR, a.tokens - first);
  const float* q = static_cast<const float*>(a.q) + (head * round_up(a.tokens, 32) + first) * a.dim;
  alignas(64) float scores[MR * kChunk], out[MR * kMaxDepth];
  std::memset(out, 0, size_t(rows * kMaxDepth) * 4);
  Softmax softmax{};
  for (float& top : softmax.top) top = -1e30f;

  for (int64_t s = 0; s < a.slots; ++s) {
    const float* slot = static_cast<const float*>(a.context) + s * layout.bytes() / 4;
    const float *k = slot + layout.k(kv_head), *v = slot + layout.v(kv_head);
    for (int64_t j = 0; j < a.tokens; j += kChunk) {
      const int64_t keys = least(kChunk, a.tokens - j);
      for (int64_t p = 0; p < keys; p += NR)
        multiply(rows, q, a.dim, Panel{k + (j + p) * a.dim}, a.dim, scores + p, kChunk, false);
      softmax_chunk(scores, rows, keys, softmax);
      for (int64_t r = 0; r < rows; ++r) {
        if (softmax.factor[r] == 1.f) continue;  // no higher score came, as in most chunks
        float* o = out + r * kMaxDepth;
        for (int64_t d = 0; d < layout.depth; d += VL)
          store(o + d, load(o + d) * softmax.factor[r]);
      }
      for (int64_t d = 0; d < layout.depth; d += NR)
        multiply(rows, scores, kChunk, Panel{v + j * layout.depth + d, layout.depth}, keys, out + d,
                 kMaxDepth, true);
    }
  }
  put_rows(a, head, first, rows, out, kMaxDepth, [&](int64_t r) { return sum(softmax.total[r]); });
}

}  // namespace rtfm::cpu::RTFM_TIER
