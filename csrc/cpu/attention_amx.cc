// SPDX-License-Identifier: Apache-2.0
// bf16 attention of the AMX tier: 32 queries of one head at a time, online softmax over chunks of
// keys. A running maximum is needed in spite of QK-norm: a far camera's transform lengthens its
// keys freely.
#include <cmath>

#include "csrc/cpu/amx.h"
#include "csrc/cpu/attention.h"
#include "csrc/cpu/slot.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kBlocks = 8;                       // blocks of 32 keys in a chunk
constexpr int64_t kScoreStride = kBlocks * 32 + 16;  // skewed: rows fall into different cache sets
constexpr int64_t kMaxDepth = 256;

int64_t attention_tasks(const AttentionArgs& a, int) {
  return a.heads * (round_up(a.tokens, 32) / 32);
}

struct Block {  // 32 keys of one slot, of which `keys` exist
  const Operand *k, *v;
  int64_t keys;
};

struct Softmax {
  float top, total;
};

// scores[blocks * 32] -> bf16 weights, laid out as rows of A tiles; returns the factor for what
// came before.
RTFM_INLINE float softmax_chunk(float* scores, const Block* blocks, int64_t count, Operand* weights,
                                Softmax& s) {
  __m512 highest = _mm512_set1_ps(s.top);
  for (int64_t b = 0; b < count; ++b) {
    float* x = scores + b * 32;
    if (blocks[b].keys < 32) [[unlikely]]
      for (int64_t j = blocks[b].keys; j < 32; ++j) x[j] = -INFINITY;
    highest = _mm512_max_ps(highest, _mm512_max_ps(_mm512_load_ps(x), _mm512_load_ps(x + 16)));
  }
  const float now = _mm512_reduce_max_ps(highest);
  const vf offset = splat(now);
  vf total{};
  for (int64_t b = 0; b < count; ++b) {
    const vf lower = exp2(load(scores + b * 32) - offset);
    const vf upper = exp2(load(scores + b * 32 + 16) - offset);
    total += lower + upper;
    Operand* w = weights + b * 2 * kTile;
    store(w, lower);
    store(w + 16, upper);
  }
  const float factor = exp2(splat(s.top - now))[0];
  s.total = s.total * factor + _mm512_reduce_add_ps((__m512)total);
  s.top = now;
  return factor;
}

struct Workspace {
  alignas(64) float scores[32 * kScoreStride];
  alignas(64) Operand weights[kBlocks * 2 * kTile];  // [block, half of the rows] A tiles
  alignas(64) float out[32 * kMaxDepth];
};

// out[32, depth] = out * factor (row by row) + weights · V, over the blocks of a chunk
RTFM_INLINE void accumulate(Workspace& w, const Block* blocks, int64_t count, int64_t depth) {
  for (int64_t d = 0; d < depth; d += 32) {
    load_accumulators(w.out + d, depth);
    for (int64_t b = 0; b < count; ++b) {
      const Operand* p = w.weights + b * 2 * kTile;
      const Operand* v = blocks[b].v + d * 32;
      multiply_tiles(p, p + kTile, 64, v, v + kTile);
    }
    store_accumulators(w.out + d, depth);
  }
}

void attention(const AttentionArgs& a, int64_t task, int64_t) {
  const Tiles tiles;
  const SlotLayout layout(a.kv_heads, a.tokens, a.dim);
  // head by head, so that the keys and values of one stay near while its strips pass
  const int64_t strips = round_up(a.tokens, 32) / 32;
  const int64_t head = task / strips, first = task % strips * 32, depth = layout.depth;
  const int64_t kv_head = head * a.kv_heads / a.heads;
  const int64_t rows = least<int64_t>(32, a.tokens - first), per_slot = layout.keys / 32;
  const Operand* q = static_cast<const Operand*>(a.q) + (head * layout.keys + first) * depth;
  const Operand* context = static_cast<const Operand*>(a.context);
  const auto block_at = [&](int64_t i) {
    const Operand* slot = context + i / per_slot * layout.bytes() / 2;
    const int64_t b = i % per_slot, at = b * 32 * depth;
    return Block{slot + layout.k(kv_head) + at, slot + layout.v(kv_head) + at,
                 least<int64_t>(32, a.tokens - b * 32)};
  };

  Workspace w;
  Softmax softmax[32];
  for (Softmax& s : softmax) s = {-1e30f, 0.f};
  std::memset(w.out, 0, size_t(32 * depth) * 4);
  for (int64_t i = 0; i < a.slots * per_slot; i += kBlocks) {
    const int64_t count = least(kBlocks, a.slots * per_slot - i);
    Block blocks[kBlocks];
    for (int64_t b = 0; b < count; ++b) {
      blocks[b] = block_at(i + b);
      clear_accumulators();
      for (int64_t d = 0; d < depth; d += 32)
        multiply_tiles(q + d, q + 16 * depth + d, depth * 2, blocks[b].k + d * 16,
                       blocks[b].k + (depth + d) * 16);
      store_accumulators(w.scores + b * 32, kScoreStride);
    }
    for (int64_t r = 0; r < 32; ++r) {
      const float factor = softmax_chunk(w.scores + r * kScoreStride, blocks, count,
                                         w.weights + (r / 16) * kTile + (r % 16) * 32, softmax[r]);
      float* o = w.out + r * depth;
      for (int64_t d = 0; d < depth; d += VL) store(o + d, load(o + d) * factor);
    }
    memory_barrier();
    accumulate(w, blocks, count, depth);
  }
  put_rows(a, head, first, rows, w.out, depth, [&](int64_t r) { return softmax[r].total; });
}

}  // namespace rtfm::cpu::RTFM_TIER
