// SPDX-License-Identifier: Apache-2.0
// K/V and queries in bf16, as tiles of AMX.
#pragma once

#include "csrc/cpu/vec.h"

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

// keys, values: [count, dim] f32 for tokens first, first + 1, ...; first is even
static inline void pack_slot(const SlotLayout& l, void* slot, int64_t head, int64_t first,
                             int64_t count, int64_t dim, const float* keys, const float* values) {
  Operand* k = static_cast<Operand*>(slot) + l.k(head);
  Operand* v = static_cast<Operand*>(slot) + l.v(head);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t j = first + i;
    Operand* tile = k + (j / 16) * 16 * l.depth + (j % 16) * 2;
    for (int64_t d = 0; d < dim; d += 2) {  // dim is even
      Operand* pair = tile + (d / 32) * 512 + (d % 32) * 16;
      pair[0] = to_operand(keys[i * dim + d]);
      pair[1] = to_operand(keys[i * dim + d + 1]);
    }
  }
  for (int64_t i = 0; i < count; i += 2) {
    const int64_t j = first + i;
    Operand* row = v + (j / 32) * 32 * l.depth + (j % 32) * 16;
    const float* even = values + i * dim;
    for (int64_t d = 0; d < dim; ++d) {
      Operand* pair = row + (d / 16) * 512 + (d % 16) * 2;
      pair[0] = to_operand(even[d]);
      pair[1] = i + 1 < count ? to_operand(even[dim + d]) : Operand(0);
    }
  }
}

// Queries: [heads, padded tokens] rows of padded dim.
RTFM_INLINE int64_t query_stride(int64_t dim) {
  return round_up(dim, 32) * int64_t(sizeof(Operand));
}
RTFM_INLINE void pack_query(void* row, const float* query, int64_t dim) {
  for_each_vector(dim, [&](int64_t j, int64_t n) {
    store_some(static_cast<Operand*>(row) + j, load_some(query + j, n), n);
  });
}

}  // namespace rtfm::cpu::RTFM_TIER
