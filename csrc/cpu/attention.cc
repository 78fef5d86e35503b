// SPDX-License-Identifier: Apache-2.0
// Attention in f32 and AVX512-BF16, whose operands are words of the register kernel: online softmax
// over chunks of keys, for a panel of queries side by side. A vector of scores is of one key, so
// that no maximum and no sum crosses lanes.
// A running maximum is needed in spite of QK-norm: a far camera's transform lengthens its keys
// freely.
#include "csrc/cpu/attention.h"

#include "csrc/cpu/slot.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kChunk = 96;  // keys whose scores are held at a time
constexpr int64_t kMaxDim = 256;
constexpr int64_t kVectors = NR / VL;

int64_t attention_tasks(const AttentionArgs& a, int) {
  return a.heads * (round_up(a.tokens, NR) / NR);
}

// What the softmax of a panel has come to; out: [dim, NR], sums of weights times values.
struct Softmax {
  alignas(64) float top[NR], total[NR], out[kMaxDim * NR];
};

// The highest of top and scores [keys, NR]. Two at a time: each waits for the one before.
RTFM_INLINE void raise(const float* scores, int64_t keys, vf (&top)[kVectors]) {
  vf other[kVectors];
  std::memcpy(other, top, sizeof top);
  for (int64_t j = 0; j < keys; j += 2)
    for (int64_t i = 0; i < kVectors; ++i) {
      top[i] = max(top[i], load(scores + j * NR + i * VL));
      other[i] = max(other[i], load(scores + least(j + 1, keys - 1) * NR + i * VL));
    }
  for (int64_t i = 0; i < kVectors; ++i) top[i] = max(top[i], other[i]);
}

#ifdef RTFM_BF16
RTFM_INLINE vf weight(vf score) { return exp2_coarse(score); }  // of which 8 bits are kept
RTFM_INLINE vf word_of(const vf (&weights)[kWord]) { return paired(weights[0], weights[1]); }
#else
RTFM_INLINE vf weight(vf score) { return exp2(score); }
RTFM_INLINE vf word_of(const vf (&weights)[kWord]) { return weights[0]; }
#endif

// Turns scores [keys, NR], powers of two, into weights in place: [keys, NR], or words of two keys.
RTFM_INLINE void weigh(float* scores, int64_t keys, int64_t dim, Softmax& s) {
  vf top[kVectors], total[kVectors];
  for (int64_t i = 0; i < kVectors; ++i) top[i] = load(s.top + i * VL);
  raise(scores, keys, top);
  for (int64_t i = 0; i < kVectors; ++i) {
    total[i] = load(s.total + i * VL);
    if (std::memcmp(&top[i], s.top + i * VL, sizeof(vf)) == 0) continue;  // as in most chunks
    const vf factor = exp2(load(s.top + i * VL) - top[i]);
    total[i] *= factor;
    for (int64_t d = 0; d < dim; ++d) {
      float* out = s.out + d * NR + i * VL;
      store(out, load(out) * factor);
    }
    store(s.top + i * VL, top[i]);
  }
  for (int64_t j = 0; j < keys; j += kWord)
    for (int64_t i = 0; i < kVectors; ++i) {
      vf weights[kWord] = {};
      for (int64_t n = 0; n < least(kWord, keys - j); ++n) {
        weights[n] = weight(load(scores + (j + n) * NR + i * VL) - top[i]);
        total[i] += weights[n];
      }
      store(scores + j / kWord * NR + i * VL, word_of(weights));
    }
  for (int64_t i = 0; i < kVectors; ++i) store(s.total + i * VL, total[i]);
}

// Operands of the register kernel, in words: [rows, dim] of keys, and [dims, keys] of values, whose
// rows of memory come from beyond L1 and are fetched ahead; and what lies in L1, as multiplied by
// them.
struct Keys {
  const float* at;
  int64_t stride;
  RTFM_INLINE float get(const Keys& a, int64_t r, int64_t i) {
    if (r == 0) __builtin_prefetch(a.at + MR * a.stride + i * 16);  // of the next strip
    return a.at[r * a.stride + i];
  }
};
struct Values {
  const float* at;
  int64_t stride;
  RTFM_INLINE float get(const Values& a, int64_t r, int64_t i) {
    if (r == 0) __builtin_prefetch(a.at + (i + 16) * a.stride);
    return a.at[i * a.stride + r];
  }
};
struct Near {
  const float* rows;
  RTFM_INLINE void get(const Near& b, int64_t i, vf& left, vf& right) {
    left = load(b.rows + i * NR), right = load(b.rows + i * NR + VL);
  }
};

// c[rows, NR] (+)= a[rows, k] · b[k, NR] in strips of equal height; a(r): from row r on
template <class A>
RTFM_INLINE void multiply_all(int64_t rows, const A& a, const float* b, int64_t k, float* c,
                              bool accumulate) {
  const int64_t strips = round_up(rows, MR) / MR;
  for (int64_t s = 0; s < strips; ++s) {
    const int64_t r = rows * s / strips, next = rows * (s + 1) / strips;
    multiply(next - r, a(r), Near{b}, k, c + r * NR, NR, accumulate);
  }
}

// Brings keys and values of a head, [keys, dim] each, into the softmax of the queries q [dim, NR].
RTFM_INLINE void attend(const float* q, const float* k, const float* v, int64_t keys, int64_t dim,
                        Softmax& softmax) {
  const int64_t depth = words_of(dim);
  alignas(64) float scores[kChunk * NR];
  multiply_all(
      keys, [&](int64_t r) { return Keys{k + r * depth, depth}; }, q, depth, scores, false);
  weigh(scores, keys, dim, softmax);
  multiply_all(
      dim, [&](int64_t d) { return Values{v + d, dim}; }, scores, words_of(keys), softmax.out,
      true);
}

void attention(const AttentionArgs& a, int64_t task, int64_t) {
  const SlotLayout layout(a.kv_heads, a.tokens, a.dim);
  // head by head, so that the keys and values of one stay near while its panels pass
  const int64_t panels = round_up(a.tokens, NR) / NR;
  const int64_t head = task / panels, first = task % panels * NR;
  const int64_t kv_head = head * a.kv_heads / a.heads;
  const int64_t depth = words_of(a.dim);
  const float* q = static_cast<const float*>(a.q) + (head * round_up(a.tokens, 32) + first) * depth;
  Softmax softmax;
  for (float& top : softmax.top) top = -1e30f;
  std::memset(softmax.total, 0, sizeof softmax.total);
  std::memset(softmax.out, 0, size_t(a.dim * NR) * 4);
  for (int64_t s = 0; s < a.slots; ++s) {
    const float* slot = layout.data(static_cast<const char*>(a.context) + s * layout.bytes());
    const float *k = slot + layout.k(kv_head), *v = slot + layout.v(kv_head);
    for (int64_t j = 0; j < a.tokens; j += kChunk)
      attend(q, k + j * depth, v + j / kWord * a.dim, least(kChunk, a.tokens - j), a.dim, softmax);
  }
  alignas(64) float rows[NR * kMaxDim];
  for (int64_t d = 0; d < a.dim; d += VL)
    put_columns(softmax.out + d * NR, NR, a.dim - d, NR, rows + d, kMaxDim);
  put_rows(a, head, first, least(NR, a.tokens - first), rows, kMaxDim,
           [&](int64_t r) { return softmax.total[r]; });
}

}  // namespace rtfm::cpu::RTFM_TIER
