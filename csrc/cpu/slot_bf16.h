// SPDX-License-Identifier: Apache-2.0
// K/V in bf16 as rows of pairs, and queries as panels of the register kernel.
#pragma once

#include "csrc/cpu/micro.h"
#include "csrc/cpu/transpose.h"

namespace rtfm::cpu::RTFM_TIER {

// K: [heads, tokens, dim]; V: [heads, tokens/2, dim, 2], two tokens side by side; dim and tokens
// rounded up to pairs.
struct SlotLayout {
  int64_t heads, tokens, dim;
  SlotLayout(int64_t heads, int64_t tokens, int64_t dim) : heads(heads), tokens(tokens), dim(dim) {}
  int64_t keys_size() const { return tokens * words_of(dim); }  // of a head, in words
  int64_t values_size() const { return words_of(tokens) * dim; }
  int64_t bytes() const { return heads * (keys_size() + values_size()) * 4; }
  int64_t k(int64_t head) const { return head * keys_size(); }  // where it begins, in words
  int64_t v(int64_t head) const { return heads * keys_size() + head * values_size(); }
  const float* data(const char* slot) const { return reinterpret_cast<const float*>(slot); }
};

constexpr bool kReadsPages = false;
RTFM_INLINE void point_to(void*, const float*) {}

// A row of `dim` numbers as words.
RTFM_INLINE void put_row(const float* row, int64_t dim, float* words) {
  Operand* out = reinterpret_cast<Operand*>(words);
  copy_row(row, dim, out);
  if (dim % 2) out[dim] = 0;
}

// keys: [count, dim], values: [count] rows of dim; for tokens first, first + 1, ...; first is even
static inline void pack_slot(const SlotLayout& l, void* slot, int64_t head, int64_t first,
                             int64_t count, int64_t dim, const float* keys, const float* values,
                             int64_t value_stride) {
  float* data = static_cast<float*>(slot);
  float *k = data + l.k(head) + first * words_of(dim), *v = data + l.v(head) + first / 2 * dim;
  for (int64_t i = 0; i < count; ++i) put_row(keys + i * dim, dim, k + i * words_of(dim));
  for (int64_t i = 0; i < count; i += 2, v += dim) {
    const float *even = values + i * value_stride, *odd = even + value_stride;
    for_each_vector(dim, [&](int64_t d, int64_t n) {
      const vf next = i + 1 < count ? load_some(odd + d, n) : vf{};
      store_some(v + d, paired(load_some(even + d, n), next), n);
    });
  }
}

// Queries: [heads, padded tokens / NR] panels [dim/2, NR, 2].
RTFM_INLINE int64_t query_stride(int64_t dim) { return words_of(dim) * int64_t(sizeof(float)); }

// queries: [count, dim]; for tokens first, first + 1, ...; first is a multiple of 32
RTFM_INLINE void pack_queries(void* head, int64_t first, int64_t count, int64_t dim,
                              const float* queries) {
  constexpr int64_t kRow = 256 / kWord;  // heads have 256 dims at most
  alignas(64) float rows[VL * kRow];
  for (int64_t i = 0; i < count; i += VL) {
    const int64_t j = first + i, tokens = least(VL, count - i);
    for (int64_t t = 0; t < tokens; ++t) put_row(queries + (i + t) * dim, dim, rows + t * kRow);
    put_columns(rows, kRow, tokens, words_of(dim),
                static_cast<float*>(head) + j / NR * NR * words_of(dim) + j % NR, NR);
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
