// SPDX-License-Identifier: Apache-2.0
// K/V and queries in f32, as panels of the register kernel.
#pragma once

#include "csrc/cpu/micro.h"
#include "csrc/cpu/transpose.h"

namespace rtfm::cpu::RTFM_TIER {

// K: [heads, keys/NR, dim, NR]; V: [heads, keys, depth]; keys and depth padded to NR.
struct SlotLayout {
  int64_t keys, depth, dim;
  int64_t heads;
  SlotLayout(int64_t heads, int64_t tokens, int64_t dim)
      : keys(round_up(tokens, NR)), depth(round_up(dim, NR)), dim(dim), heads(heads) {}
  int64_t bytes() const { return heads * keys * (dim + depth) * 4; }
  int64_t k(int64_t head) const { return head * keys * dim; }  // where it begins, in floats
  int64_t v(int64_t head) const { return k(heads) + head * keys * depth; }
};

// keys: [count, dim], values: [count] rows of dim; for tokens first, first + 1, ...; first is a
// multiple of 32
static inline void pack_slot(const SlotLayout& l, void* slot, int64_t head, int64_t first,
                             int64_t count, int64_t dim, const float* keys, const float* values,
                             int64_t value_stride) {
  float *k = static_cast<float*>(slot) + l.k(head), *v = static_cast<float*>(slot) + l.v(head);
  for (int64_t i = 0; i < count; i += VL) {
    const int64_t j = first + i;
    put_columns(keys + i * dim, dim, least(VL, count - i), dim, k + j / NR * NR * dim + j % NR, NR);
  }
  for (int64_t i = 0; i < count; ++i)
    for_each_vector(dim, [&](int64_t d, int64_t n) {
      store_some(v + (first + i) * l.depth + d, load_some(values + i * value_stride + d, n), n);
    });
}

// Queries: [heads, padded tokens] rows of dim.
RTFM_INLINE int64_t query_stride(int64_t dim) { return dim * 4; }
RTFM_INLINE void pack_query(void* row, const float* query, int64_t dim) {
  std::memcpy(row, query, size_t(dim) * 4);
}

}  // namespace rtfm::cpu::RTFM_TIER
