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

// Turns scores[keys] (powers of two) into weights in place; returns the factor for what came
// before.
RTFM_INLINE float softmax_chunk(float* scores, int64_t keys, int64_t padded, float& top,
                                float& total) {
  for (int64_t j = keys; j < padded; ++j) scores[j] = -INFINITY;
  vf highest = splat(top);
  for (int64_t j = 0; j < padded; j += VL) highest = max(highest, load(scores + j));
  float now = highest[0];
  for (int i = 1; i < VL; ++i) now = highest[i] > now ? highest[i] : now;
  const vf offset = splat(now);
  vf weights{};
  for (int64_t j = 0; j < padded; j += VL) {
    const vf w = exp2(load(scores + j) - offset);
    store(scores + j, w);
    weights += w;
  }
  const float factor = exp2(splat(top - now))[0];
  total = total * factor + sum(weights);
  top = now;
  return factor;
}

void attention(const AttentionArgs& a, int64_t task, int64_t) {
  const SlotLayout layout(a.kv_heads, a.tokens, a.dim);
  const int64_t head = task % a.heads, first = task / a.heads * MR;
  const int64_t kv_head = head * a.kv_heads / a.heads;
  const int64_t rows = least<int64_t>(MR, a.tokens - first);
  const float* q = static_cast<const float*>(a.q) + (head * round_up(a.tokens, 32) + first) * a.dim;
  alignas(64) float scores[MR * kChunk], out[MR * kMaxDepth] = {};
  float top[MR], total[MR] = {};
  for (float& t : top) t = -1e30f;

  for (int64_t s = 0; s < a.slots; ++s) {
    const Operand* slot = static_cast<const Operand*>(a.context) + s * layout.size();
    const Operand *k = layout.k(slot, kv_head), *v = layout.v(slot, kv_head);
    for (int64_t j = 0; j < a.tokens; j += kChunk) {
      const int64_t keys = least(kChunk, a.tokens - j), padded = round_up(keys, NR);
      for (int64_t p = 0; p < padded; p += NR)
        multiply(rows, q, a.dim, k + (j + p) * a.dim, NR, a.dim, scores + p, kChunk, false);
      for (int64_t r = 0; r < rows; ++r) {
        const float factor = softmax_chunk(scores + r * kChunk, keys, padded, top[r], total[r]);
        float* o = out + r * kMaxDepth;
        for (int64_t d = 0; d < layout.depth; d += VL) store(o + d, load(o + d) * factor);
      }
      for (int64_t d = 0; d < layout.depth; d += NR)
        multiply(rows, scores, kChunk, v + j * layout.depth + d, layout.depth, keys, out + d,
                 kMaxDepth, true);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* y = static_cast<float*>(a.y) + (first + r) * a.y_stride + head * a.dim;
    const float inverse = 1.f / total[r];
    for_each_vector(a.dim, [&](int64_t d, int64_t n) {
      store_some(y + d, load_some(out + r * kMaxDepth + d, n) * inverse, n);
    });
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
