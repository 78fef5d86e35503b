// SPDX-License-Identifier: Apache-2.0
// The packed K/V of one frame as attention reads it (a context slot), and the packed queries.
#pragma once

#include "csrc/cpu/micro.h"
#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

#ifdef RTFM_BF16

// K: [heads, keys/16, dim/32] tiles of [16 pairs of dim, 16 keys, 2]
// V: [heads, keys/32, dim/16] tiles of [16 pairs of keys, 16 dims, 2]; keys and dim padded to 32.
struct SlotLayout {
  int64_t keys, depth;  // padded tokens, padded dim
  int64_t heads;
  SlotLayout(int64_t heads, int64_t tokens, int64_t dim)
      : keys(round_up(tokens, 32)), depth(round_up(dim, 32)), heads(heads) {}
  int64_t head_size() const { return keys * depth; }  // elements of K, and of V
  int64_t size() const { return 2 * heads * head_size(); }
  const Operand* k(const Operand* slot, int64_t head) const { return slot + head * head_size(); }
  const Operand* v(const Operand* slot, int64_t head) const {
    return slot + (heads + head) * head_size();
  }
};

// keys, values: [count, dim] f32 for tokens first, first + 1, ...; first is even
static inline void pack_slot(const SlotLayout& l, Operand* slot, int64_t head, int64_t first,
                             int64_t count, int64_t dim, const float* keys, const float* values) {
  Operand* k = slot + head * l.head_size();
  Operand* v = slot + (l.heads + head) * l.head_size();
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

#else

// K: [heads, keys/NR, dim, NR]; V: [heads, keys, depth]; keys and depth padded to NR.
struct SlotLayout {
  int64_t keys, depth, dim;
  int64_t heads;
  SlotLayout(int64_t heads, int64_t tokens, int64_t dim)
      : keys(round_up(tokens, NR)), depth(round_up(dim, NR)), dim(dim), heads(heads) {}
  int64_t size() const { return heads * keys * (dim + depth); }
  const Operand* k(const Operand* slot, int64_t head) const { return slot + head * keys * dim; }
  const Operand* v(const Operand* slot, int64_t head) const {
    return slot + heads * keys * dim + head * keys * depth;
  }
};

static inline void pack_slot(const SlotLayout& l, Operand* slot, int64_t head, int64_t first,
                             int64_t count, int64_t dim, const float* keys, const float* values) {
  Operand* k = slot + head * l.keys * dim;
  Operand* v = slot + l.heads * l.keys * dim + head * l.keys * l.depth;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t j = first + i;
    Operand* column = k + (j / NR) * NR * dim + j % NR;
    for (int64_t d = 0; d < dim; ++d) column[d * NR] = keys[i * dim + d];
    std::memcpy(v + j * l.depth, values + i * dim, size_t(dim) * 4);
  }
}

#endif

// Queries: [heads, padded tokens, padded dim] operand, row-major.
RTFM_INLINE int64_t query_depth(int64_t dim) {
#ifdef RTFM_BF16
  return round_up(dim, 32);
#else
  return dim;
#endif
}

}  // namespace rtfm::cpu::RTFM_TIER
