// SPDX-License-Identifier: Apache-2.0
// Attention of the VNNI tiers: scores in int8, weights in 13 bits times values in 12, the softmax
// between them in f32 and online over chunks of keys.
#include "csrc/cpu/attention.h"
#include "csrc/cpu/slot.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kChunk = 128;  // keys at a time: sums of kChunk * 8191 * 2047 fit in 32 bits
constexpr float kMostWeight = 8191.f;
constexpr int64_t kMaxDepth = 256;

int64_t attention_tasks(const AttentionArgs& a, int) {
  return a.heads * (round_up(a.tokens, MR) / MR);
}

struct Chunk {  // of one head of a slot
  const char *k, *v;
  const float *k_scales, *v_scales;
  int64_t keys;
};

struct Strip {  // of rows, and what has come to each
  alignas(64) float scores[MR * kChunk];
  alignas(64) int16_t weights[MR * kChunk];
  alignas(64) float out[MR * kMaxDepth];
  alignas(64) float top[VL], factor[VL], share[VL];
  vf total[MR];  // of weights, each lane its own keys
};

// Turns scores, powers of two, into weights beside the highest of their chunk, each multiplied by
// its key's scale of V; the largest of those is returned.
RTFM_INLINE float weigh(Strip& s, int64_t rows, const Chunk& c) {
  const int64_t padded = round_up(c.keys, VL);
  alignas(64) float peak[VL];
  for (float& p : peak) p = -1e30f;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = s.scores + r * kChunk;
    for (int64_t j = c.keys; j < padded; ++j) row[j] = -1e30f;
    vf highest = load(row);
    for (int64_t j = VL; j < padded; j += VL) highest = max(highest, load(row + j));
    peak[r] = highest_of(highest);
  }
  const vf before = load(s.top), chunk = load(peak), now = max(before, chunk);
  store(s.factor, exp2(before - now));
  store(s.share, exp2(chunk - now));
  store(s.top, now);

  const float most = peak_of(c.v_scales, c.keys);
  alignas(64) float scales[kChunk];
  for_each_vector(c.keys, [&](int64_t j, int64_t n) {
    store(scales + j, load_some(c.v_scales + j, n) * (kMostWeight / most));
  });
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = s.scores + r * kChunk;
    vf total{};
    for (int64_t j = 0; j < padded; j += VL) {
      const vf w = exp2_coarse(load(row + j) - peak[r]);
      total += w;
      const vh words = __builtin_convertvector(rounded(w * load(scales + j)), vh);
      std::memcpy(s.weights + r * kChunk + j, &words, sizeof words);
    }
    s.total[r] = s.total[r] * s.factor[r] + total * s.share[r];
  }
  return most;
}

// out[R, depth] = out * factor + weights · v, which are `unit` each
template <int R>
static void add_values(Strip& s, const Chunk& c, int64_t depth, float unit) {
  for (int64_t d = 0; d < depth; d += NR)
    multiply<R>(s.weights, kChunk * 2, c.v + d * 4, depth * 4, (c.keys + 1) / 2, dot_words,
                [&](int r, int half, vi sum) {
                  float* o = s.out + r * kMaxDepth + d + half * VL;
                  const vf more = __builtin_convertvector(sum, vf);
                  store(o, load(o) * s.factor[r] + more * (unit * s.share[r]));
                });
}

void attention(const AttentionArgs& a, int64_t task, int64_t) {
  const SlotLayout layout(a.kv_heads, a.tokens, a.dim);
  // head by head, so that the keys and values of one stay near while its strips pass
  const int64_t strips = round_up(a.tokens, MR) / MR;
  const int64_t head = task / strips, first = task % strips * MR, depth = layout.depth;
  const int64_t kv_head = head * a.kv_heads / a.heads, stride = query_stride(a.dim);
  const int64_t rows = least<int64_t>(MR, a.tokens - first);
  const char* q = static_cast<const char*>(a.q) + (head * round_up(a.tokens, 32) + first) * stride;

  Strip strip;
  std::memset(strip.out, 0, size_t(rows * kMaxDepth) * 4);
  for (float& top : strip.top) top = -1e30f;
  for (vf& total : strip.total) total = vf{};
  for (int64_t s = 0; s < a.slots; ++s) {
    const char* slot = static_cast<const char*>(a.context) + s * layout.bytes();
    const auto* k_scales = reinterpret_cast<const float*>(slot + layout.k_scales(kv_head));
    const auto* v_scales = reinterpret_cast<const float*>(slot + layout.v_scales(kv_head));
    for (int64_t j = 0; j < a.tokens; j += kChunk) {
      const Chunk chunk{.k = slot + layout.k(kv_head) + j * depth,
                        .v = slot + layout.v(kv_head) + j * depth * 2,
                        .k_scales = k_scales + j,
                        .v_scales = v_scales + j,
                        .keys = least(kChunk, a.tokens - j)};
      with_rows(rows, [&](auto r) {
        for (int64_t p = 0; p < chunk.keys; p += NR)
          multiply_int8<r()>(q, stride, chunk.k + p * depth, depth, chunk.k_scales + p,
                             strip.scores + p, kChunk);
      });
      const float unit = weigh(strip, rows, chunk) / kMostWeight;
      with_rows(rows, [&](auto r) { add_values<r()>(strip, chunk, depth, unit); });
    }
  }
  put_rows(a, head, first, rows, strip.out, kMaxDepth,
           [&](int64_t r) { return sum(strip.total[r]); });
}

}  // namespace rtfm::cpu::RTFM_TIER
