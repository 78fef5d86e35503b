// SPDX-License-Identifier: Apache-2.0
// K in int8, V in 12 bits, queries in int8: each token of a head has a scale of its own.
#pragma once

#include "csrc/cpu/micro_int8.h"
#include "csrc/cpu/transpose.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr float kMostValue = 2047.f;  // of V

// A head of K: [keys/NR, depth/4, NR keys, 4] as k + 128, then [keys] scales
// A head of V: [keys/2, depth, 2] int16, then [keys] scales; keys and depth padded to NR
struct SlotLayout {
  int64_t keys, depth, heads;
  SlotLayout(int64_t heads, int64_t tokens, int64_t dim)
      : keys(round_up(tokens, NR)), depth(round_up(dim, NR)), heads(heads) {}
  int64_t bytes() const { return heads * keys * (3 * depth + 8); }
  int64_t k(int64_t head) const { return head * keys * (depth + 4); }  // where it begins
  int64_t v(int64_t head) const { return k(heads) + head * keys * (2 * depth + 4); }
  int64_t k_scales(int64_t head) const { return k(head) + keys * depth; }
  int64_t v_scales(int64_t head) const { return v(head) + keys * depth * 2; }
};

RTFM_INLINE void put_float(char* at, float x) { std::memcpy(at, &x, 4); }

constexpr bool kReadsPages = false;
RTFM_INLINE void point_to(void*, const float*) {}

// keys: [count, dim], values: [count] rows of dim; for tokens first, first + 1, ...; first is a
// multiple of 32
static inline void pack_slot(const SlotLayout& l, void* slot, int64_t head, int64_t first,
                             int64_t count, int64_t dim, const float* keys, const float* values,
                             int64_t value_stride) {
  char *base = static_cast<char*>(slot), *k = base + l.k(head), *v = base + l.v(head);
  constexpr int64_t kRow = 256 + 16;  // heads have 256 dims at most
  alignas(64) int8_t rows[VL * kRow];
  for (int64_t i = 0; i < count; i += VL) {
    const int64_t j = first + i, tokens = least(VL, count - i);
    for (int64_t t = 0; t < tokens; ++t) {
      int8_t* row = rows + t * kRow;
      quantize_row(keys + (i + t) * dim, dim, l.depth, row);
      put_float(base + l.k_scales(head) + (j + t) * 4, end_of_row(row, l.depth).scale);
      for (int64_t d = 0; d < l.depth; ++d) row[d] = int8_t(row[d] ^ 0x80);  // + 128
    }
    put_columns(reinterpret_cast<const float*>(rows), kRow / 4, tokens, l.depth / 4,
                reinterpret_cast<float*>(k + j / NR * NR * l.depth) + j % NR, NR);
  }
  for (int64_t i = 0; i < count; i += 2) {
    const bool both = i + 1 < count;
    const float *even = values + i * value_stride, *odd = both ? even + value_stride : even;
    const float a = unit_of(peak_of(even, dim), kMostValue),
                b = unit_of(peak_of(odd, dim), kMostValue);
    put_float(base + l.v_scales(head) + (first + i) * 4, a);
    if (both) put_float(base + l.v_scales(head) + (first + i + 1) * 4, b);
    char* out = v + (first + i) / 2 * l.depth * 4;
    for_each_vector(dim, [&](int64_t d, int64_t n) {
      const vi low = rounded(load_some(even + d, n) * (1.f / a));
      const vi high = rounded(load_some(odd + d, n) * (1.f / b));
      const vi pairs = (low & 0xffff) | (high << 16);
      std::memcpy(out + d * 4, &pairs, sizeof pairs);
    });
  }
}

// Queries: [heads, padded tokens] rows of int8 with their RowEnd.
RTFM_INLINE int64_t query_stride(int64_t dim) { return round_up(dim, NR) + 16; }
// queries: [count, dim]; for tokens first, first + 1, ...
RTFM_INLINE void pack_queries(void* head, int64_t first, int64_t count, int64_t dim,
                              const float* queries) {
  for (int64_t i = 0; i < count; ++i)
    quantize_row(queries + i * dim, dim, round_up(dim, NR),
                 static_cast<int8_t*>(head) + (first + i) * query_stride(dim));
}

}  // namespace rtfm::cpu::RTFM_TIER
