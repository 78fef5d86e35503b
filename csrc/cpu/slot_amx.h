// SPDX-License-Identifier: Apache-2.0
// K/V and queries in bf16, as tiles of AMX.
#pragma once

#include "csrc/cpu/transpose.h"

namespace rtfm::cpu::RTFM_TIER {

// K: [heads, keys/16, dim/32] tiles of [16 pairs of dim, 16 keys, 2]
// V: [heads, keys/32, dim/16] tiles of [16 pairs of keys, 16 dims, 2]; keys and dim padded to 32.
struct SlotLayout {
  int64_t keys, depth;  // padded tokens, padded dim
  int64_t heads;
  SlotLayout(int64_t heads, int64_t tokens, int64_t dim)
      : keys(round_up(tokens, 32)), depth(round_up(dim, 32)), heads(heads) {}
  int64_t head_size() const { return keys * depth; }  // elements of K, and of V
  int64_t bytes() const { return 2 * heads * head_size() * int64_t(sizeof(Operand)); }
  int64_t k(int64_t head) const { return head * head_size(); }  // where it begins, in elements
  int64_t v(int64_t head) const { return (heads + head) * head_size(); }
};

constexpr bool kReadsPages = false;
RTFM_INLINE void point_to(void*, const float*) {}

// keys: [count, dim], values: [count] rows of dim; for tokens first, first + 1, ...; first is a
// multiple of 32
static inline void pack_slot(const SlotLayout& l, void* slot, int64_t head, int64_t first,
                             int64_t count, int64_t dim, const float* keys, const float* values,
                             int64_t value_stride) {
  Operand* k = static_cast<Operand*>(slot) + l.k(head);
  Operand* v = static_cast<Operand*>(slot) + l.v(head);
  alignas(64) Operand rows[16 * 256];  // heads have 256 dims at most
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t tokens = least<int64_t>(16, count - i);
    for (int64_t j = 0; j < tokens; ++j) copy_row(keys + (i + j) * dim, dim, rows + j * 256);
    put_columns(reinterpret_cast<const float*>(rows), 128, tokens, dim / 2,
                reinterpret_cast<float*>(k + (first + i) * l.depth), 16);
  }
  for (int64_t i = 0; i < count; i += 2) {
    const int64_t j = first + i;
    const float *even = values + i * value_stride, *odd = even + value_stride;
    for_each_vector(dim, [&](int64_t d, int64_t n) {
      const vf pairs = paired(load_some(even + d, n), i + 1 < count ? load_some(odd + d, n) : vf{});
      store(reinterpret_cast<float*>(v + j / 32 * 32 * l.depth + d / 16 * 512 + j % 32 * 16),
            pairs);
    });
  }
}

// Queries: [heads, padded tokens] rows of padded dim.
RTFM_INLINE int64_t query_stride(int64_t dim) {
  return round_up(dim, 32) * int64_t(sizeof(Operand));
}
// queries: [count, dim]; for tokens first, first + 1, ...
RTFM_INLINE void pack_queries(void* head, int64_t first, int64_t count, int64_t dim,
                              const float* queries) {
  Operand* out = static_cast<Operand*>(head) + first * round_up(dim, 32);
  for (int64_t i = 0; i < count; ++i) copy_row(queries + i * dim, dim, out + i * round_up(dim, 32));
}

}  // namespace rtfm::cpu::RTFM_TIER
