// SPDX-License-Identifier: Apache-2.0
// K/V in f32 as a page holds them, and queries as panels of the register kernel.
#pragma once

#include "csrc/cpu/micro.h"
#include "csrc/cpu/transpose.h"

namespace rtfm::cpu::RTFM_TIER {

// A slot holds K, then V, [heads, tokens, dim] each, or says in which page they lie.
struct SlotLayout {
  int64_t heads, tokens, dim;
  SlotLayout(int64_t heads, int64_t tokens, int64_t dim) : heads(heads), tokens(tokens), dim(dim) {}
  int64_t bytes() const { return kHead + 2 * heads * tokens * dim * 4; }
  int64_t k(int64_t head) const { return head * tokens * dim; }  // where it begins, in floats
  int64_t v(int64_t head) const { return k(heads + head); }
  const float* data(const char* slot) const {
    const float* page;
    std::memcpy(&page, slot, sizeof page);
    return page ? page : reinterpret_cast<const float*>(slot + kHead);
  }
  static constexpr int64_t kHead = 64;  // a cache line: null, or what lies in the page
};

// Attention reads the K and V of a page that no camera moves where they lie.
constexpr bool kReadsPages = true;
RTFM_INLINE void point_to(void* slot, const float* page) { std::memcpy(slot, &page, sizeof page); }

// keys: [count, dim], values: [count] rows of dim; for tokens first, first + 1, ...
static inline void pack_slot(const SlotLayout& l, void* slot, int64_t head, int64_t first,
                             int64_t count, int64_t dim, const float* keys, const float* values,
                             int64_t value_stride) {
  float* data = reinterpret_cast<float*>(static_cast<char*>(slot) + SlotLayout::kHead);
  float *k = data + l.k(head) + first * dim, *v = data + l.v(head) + first * dim;
  std::memcpy(k, keys, size_t(count * dim) * 4);
  for (int64_t i = 0; i < count; ++i) copy_row(values + i * value_stride, dim, v + i * dim);
}

// Queries: [heads, padded tokens / NR] panels [dim, NR].
RTFM_INLINE int64_t query_stride(int64_t dim) { return dim * 4; }

// queries: [count, dim]; for tokens first, first + 1, ...; first is a multiple of 32
RTFM_INLINE void pack_queries(void* head, int64_t first, int64_t count, int64_t dim,
                              const float* queries) {
  for (int64_t i = 0; i < count; i += VL) {
    const int64_t j = first + i;
    put_columns(queries + i * dim, dim, count - i, dim,
                static_cast<float*>(head) + j / NR * NR * dim + j % NR, NR);
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
