// SPDX-License-Identifier: Apache-2.0
// What surrounds a latent: what its network is conditioned on, its place in a page, its squares.
#include "csrc/cpu/latent.h"

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t condition_tasks(const ConditionArgs& a, int) { return a.rows; }

void condition(const ConditionArgs& a, int64_t row, int64_t) {
  Operand* y = static_cast<Operand*>(a.y) + row * a.y_stride;
  for_each_vector(a.cols, [&](int64_t j, int64_t n) {
    vf v = load_some(a.base + row * a.cols + j, n);
    for (int64_t i = 0; i < a.count; ++i)
      v += load_some(a.weight + i * a.cols + j, n) * a.actions[i];
    store_some(y + j, silu(v), n);
  });
}

int64_t save_frame_tasks(const SaveFrameArgs&, int) { return 1; }

void save_frame(const SaveFrameArgs& a, int64_t, int64_t) {
  char* to = static_cast<char*>(a.inputs->page) + a.offset;
  const int64_t bytes = a.cols * 4;
  for (int64_t row = 0; row < a.rows; ++row, to += bytes)
    std::memcpy(to, a.x + row * a.x_stride, size_t(bytes));
  std::memcpy(to, a.inputs->actions, size_t(a.actions) * 4);
}

int64_t load_frame_tasks(const LoadFrameArgs&, int) { return 1; }

void load_frame(const LoadFrameArgs& a, int64_t, int64_t) {
  const char* from = static_cast<const char*>(a.inputs->page) + a.offset;
  const int64_t bytes = a.cols * 4;
  for (int64_t row = 0; row < a.rows; ++row, from += bytes)
    std::memcpy(a.x + row * a.x_stride, from, size_t(bytes));
  std::memcpy(a.actions, from, size_t(a.count) * 4);
}

// A row of a square is patch · channels values of a token, and patch consecutive cells of the grid:
// f(first cell, first value of the token's row).
template <class Args, class F>
RTFM_INLINE void for_each_square_row(const Args& a, int64_t token, const F& f) {
  const int64_t across = a.width / a.patch;
  const int64_t y = token / across * a.patch, x = token % across * a.patch;
  for (int64_t i = 0; i < a.patch; ++i) f((y + i) * a.width + x, i * a.patch * a.channels);
}

int64_t group_tasks(const GroupArgs& a, int) { return a.height / a.patch; }

void group(const GroupArgs& a, int64_t task, int64_t) {
  const int64_t across = a.width / a.patch;
  for (int64_t token = task * across; token < (task + 1) * across; ++token)
    for_each_square_row(a, token, [&](int64_t cell, int64_t at) {
      float* to = a.tokens + token * a.tokens_stride + at;
      for (int64_t i = 0; i < a.patch; ++i, to += a.channels)
        std::memcpy(to, a.grid + (cell + i) * a.grid_stride, size_t(a.channels) * 4);
    });
}

int64_t ungroup_tasks(const UngroupArgs& a, int) { return a.height / a.patch; }

void ungroup(const UngroupArgs& a, int64_t task, int64_t) {
  const int64_t across = a.width / a.patch;
  for (int64_t token = task * across; token < (task + 1) * across; ++token)
    for_each_square_row(a, token, [&](int64_t cell, int64_t at) {
      const float* from = a.tokens + token * a.tokens_stride + at;
      Operand* to = static_cast<Operand*>(a.grid) + cell * a.grid_stride;
      for (int64_t i = 0; i < a.patch; ++i, from += a.channels, to += a.grid_stride)
        for_each_vector(a.channels, [&](int64_t j, int64_t n) {
          const vf v = load_some(from + j, n);
          store_some(to + j, a.limit > 0 ? signed_sigmoid(v * (2.f / a.limit)) * a.limit : v, n);
        });
    });
}

}  // namespace rtfm::cpu::RTFM_TIER
