// SPDX-License-Identifier: Apache-2.0
// The memory-bound ops around attention: norm + modulate, QK-norm + RoPE + packing, page gather.
#include "csrc/cpu/norm.h"

#include <cmath>

#include "csrc/cpu/slot.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kBlock = 32;     // tokens that a task handles at a time; as pack_slot wants
constexpr int64_t kRowsAhead = 6;  // that are fetched
constexpr int64_t kMaxDim = 256;   // head dim; the model reader enforces it
constexpr float kLog2E = 1.44269504f;

RTFM_INLINE float inverse_rms(const float* x, int64_t count, float eps) {
  vf squares{};
  for_each_vector(count, [&](int64_t j, int64_t n) {
    const vf v = load_some(x + j, n);
    squares += v * v;
  });
  return 1.f / std::sqrt(sum(squares) / float(count) + eps);
}

int64_t norm_modulate_tasks(const NormModulateArgs& a, int threads) {
  return least<int64_t>(round_up(a.rows, 8) / 8, threads == 1 ? 1 : 4 * threads);
}

RTFM_INLINE float mean(const float* x, int64_t count) {
  vf total{};
  for_each_vector(count, [&](int64_t j, int64_t n) { total += load_some(x + j, n); });
  return sum(total) / float(count);
}

// 1 / sqrt(mean((x - centre)²) + eps)
RTFM_INLINE float inverse_deviation(const float* x, int64_t count, float centre, float eps) {
  const int64_t whole = count / VL * VL;
  vf squares{};
  for (int64_t j = 0; j < whole; j += VL) {
    const vf v = load(x + j) - centre;
    squares += v * v;
  }
  float total = sum(squares);
  for (int64_t j = whole; j < count; ++j) total += (x[j] - centre) * (x[j] - centre);
  return 1.f / std::sqrt(total / float(count) + eps);
}

void norm_modulate(const NormModulateArgs& a, int64_t task, int64_t tasks) {
  for (int64_t row = a.rows * task / tasks; row < a.rows * (task + 1) / tasks; ++row) {
    const float* x = a.x + row * a.x_stride;
    Operand* y = static_cast<Operand*>(a.y) + row * a.y_stride;
    const float centre = a.norm == Norm::layer ? mean(x, a.cols) : 0.f;
    const float inverse = a.norm == Norm::layer ? inverse_deviation(x, a.cols, centre, a.eps)
                                                : inverse_rms(x, a.cols, a.eps);
    for_each_vector(a.cols, [&](int64_t j, int64_t n) {
      const vf v = (load_some(x + j, n) - centre) * inverse;
      const vf moved = v * load_some(a.scale + j, n) + load_some(a.shift + j, n);
      store_some(y + j, a.activation == Activation::silu ? silu(moved) : moved, n);
    });
  }
}

int64_t query_bytes(int64_t heads, int64_t tokens, int64_t dim) {
  return heads * round_up(tokens, 32) * query_stride(dim);
}

int64_t slot_bytes(int64_t heads, int64_t tokens, int64_t dim) {
  return SlotLayout(heads, tokens, dim).bytes();
}

// y = rope(rms(x) * gain * scale): of the last 2 * rope dims, pair (i, i + rope) turns by angle i.
RTFM_INLINE void norm_rope(const float* x, const float* gain, const float* cos, const float* sin,
                           int64_t dim, int64_t rope, float eps, float scale, float* y) {
  if (gain) scale *= inverse_rms(x, dim, eps);
  const auto normed = [&](int64_t d, int64_t n) {
    const vf v = load_some(x + d, n) * scale;
    return gain ? v * load_some(gain + d, n) : v;
  };
  const int64_t left = dim - 2 * rope, right = dim - rope;
  for_each_vector(left, [&](int64_t d, int64_t n) { store_some(y + d, normed(d, n), n); });
  for_each_vector(rope, [&](int64_t i, int64_t n) {
    const vf u = normed(left + i, n), v = normed(right + i, n);
    const vf c = load_some(cos + i, n), s = load_some(sin + i, n);
    store_some(y + left + i, u * c - v * s, n);
    store_some(y + right + i, u * s + v * c, n);
  });
}

RTFM_INLINE void to_page(const QkvSplitArgs& a, int64_t at, int64_t count, const float* rows,
                         int64_t stride) {
  Operand* page = static_cast<Operand*>(a.inputs->page) + at;
  for (int64_t i = 0; i < count; ++i) copy_row(rows + i * stride, a.dim, page + i * a.dim);
}

int64_t qkv_split_tasks(const QkvSplitArgs& a, int) {
  return a.heads * (round_up(a.tokens, kBlock) / kBlock);
}

// Rows of a head lie too far apart for the hardware to see them coming.
RTFM_INLINE void fetch(const float* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(row + d);
}

RTFM_INLINE void split_queries(const QkvSplitArgs& a, int64_t head, int64_t first, int64_t count) {
  const float scale = kLog2E / std::sqrt(float(a.dim));  // attention works in powers of two
  alignas(64) float queries[kBlock * kMaxDim];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = first + i;
    const float* q = a.q + token * a.stride + head * a.dim;
    fetch(q + kRowsAhead * a.stride, a.dim);
    norm_rope(q, a.q_gain, a.cos + token * a.rope, a.sin + token * a.rope, a.dim, a.rope, a.eps,
              scale, queries + i * a.dim);
  }
  char* of_head = static_cast<char*>(a.query) + head * query_bytes(1, a.tokens, a.dim);
  pack_queries(of_head, first, count, a.dim, queries);
}

RTFM_INLINE void split_keys(const QkvSplitArgs& a, int64_t head, int64_t first, int64_t count) {
  alignas(64) float keys[kBlock * kMaxDim];
  const float* values = a.v + first * a.stride + head * a.dim;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = first + i;
    const float* k = a.k + token * a.stride + head * a.dim;
    fetch(k + kRowsAhead * a.stride, a.dim);
    fetch(values + i * a.stride, a.dim);
    norm_rope(k, a.k_gain, a.cos + token * a.rope, a.sin + token * a.rope, a.dim, a.rope, a.eps,
              1.f, keys + i * a.dim);
  }
  if (a.inputs) {
    const int64_t at = (head * a.tokens + first) * a.dim, half = a.kv_heads * a.tokens * a.dim;
    to_page(a, 2 * a.layer * half + at, count, keys, a.dim);
    to_page(a, (2 * a.layer + 1) * half + at, count, values, a.stride);
  }
  if (a.slot)
    pack_slot(SlotLayout(a.kv_heads, a.tokens, a.dim), a.slot, head, first, count, a.dim, keys,
              values, a.stride);
}

void qkv_split(const QkvSplitArgs& a, int64_t task, int64_t) {
  const int64_t head = task % a.heads, first = task / a.heads * kBlock;
  const int64_t count = least(kBlock, a.tokens - first);
  if (a.q) split_queries(a, head, first, count);
  if (a.k && head < a.kv_heads) split_keys(a, head, first, count);
}

// Of each group of 4 lanes, lane `Which` in all of them.
template <size_t Which, size_t... I>
RTFM_INLINE vf spread(vf v, std::index_sequence<I...>) {
  return shuffle<int(I / 4 * 4 + Which)...>(v, v);
}

// rows[count, dim] of the page, with M applied to each group of 4 of the first camera_dims
RTFM_INLINE void transformed(const void* page, int64_t at, int64_t count, int64_t dim,
                             int64_t camera_dims, const float* m, float* rows) {
  const Operand* in = static_cast<const Operand*>(page) + at;
  float column[4][VL];  // of M, in every group
  for (int64_t lane = 0; lane < VL; ++lane)
    for (int64_t c = 0; c < 4; ++c) column[c][lane] = m[lane % 4 * 4 + c];
  const vf m0 = load(column[0]), m1 = load(column[1]), m2 = load(column[2]), m3 = load(column[3]);
  for (int64_t i = 0; i < count; ++i) {
    const auto moved = [&](int64_t d, int64_t n) {
      const vf v = load_some(in + i * dim + d, n);
      store_some(rows + i * dim + d,
                 m0 * spread<0>(v, Lanes()) + m1 * spread<1>(v, Lanes()) +
                     m2 * spread<2>(v, Lanes()) + m3 * spread<3>(v, Lanes()),
                 n);
    };
    for_each_vector(camera_dims, moved);
    copy_row(in + i * dim + camera_dims, dim - camera_dims, rows + i * dim + camera_dims);
  }
}

// Where layer `layer` of the i-th page goes.
RTFM_INLINE char* slot_of(const GatherArgs& a, int64_t layer, int64_t i) {
  return static_cast<char*>(a.context) + (layer * a.slots + 1 + i) * a.slot_bytes;
}

RTFM_INLINE bool stays_in_pages(const GatherArgs& a) { return kReadsPages && a.camera_dims == 0; }

int64_t gather_tasks(const GatherArgs& a, int) {
  if (stays_in_pages(a)) return 1;
  return a.pages * a.layers * a.heads * (round_up(a.tokens, kBlock) / kBlock);
}

// task: (page, layer, block of tokens, head), the last fastest
void gather(const GatherArgs& a, int64_t task, int64_t) {
  const int64_t blocks = round_up(a.tokens, kBlock) / kBlock, half = a.heads * a.tokens * a.dim;
  if (stays_in_pages(a)) {
    for (int64_t i = 0; i < a.pages; ++i)
      for (int64_t layer = 0; layer < a.layers; ++layer)
        point_to(slot_of(a, layer, i),
                 static_cast<const float*>(a.inputs->pages[a.first_page + i]) +
                     2 * (a.first_layer + layer) * half);
    return;
  }
  const int64_t head = task % a.heads, first = task / a.heads % blocks * kBlock;
  const int64_t layer = task / a.heads / blocks % a.layers, i = task / a.heads / blocks / a.layers;
  const int64_t count = least(kBlock, a.tokens - first), at = (head * a.tokens + first) * a.dim;
  const void* page = a.inputs->pages[a.first_page + i];
  const float* m = a.inputs->transforms[a.first_page + i];
  const int64_t in_page = 2 * (a.first_layer + layer) * half + at;
  alignas(64) float keys[kBlock * kMaxDim], values[kBlock * kMaxDim];
  transformed(page, in_page, count, a.dim, a.camera_dims, m, keys);
  transformed(page, in_page + half, count, a.dim, a.camera_dims, m, values);
  char* slot = slot_of(a, layer, i);
  if (head == 0 && first == 0) point_to(slot, nullptr);
  pack_slot(SlotLayout(a.heads, a.tokens, a.dim), slot, head, first, count, a.dim, keys, values,
            a.dim);
}

}  // namespace rtfm::cpu::RTFM_TIER
