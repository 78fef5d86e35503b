// SPDX-License-Identifier: Apache-2.0
// Tokens of p×p places as a grid of places, and the other way round.
#include "csrc/cpu/grid.h"

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

int64_t grid_tasks(const GridArgs& a, int) { return a.rows; }

// f(place, token, first value of the place in the token) along a row of the grid
template <class F>
RTFM_INLINE void for_each_place(const GridArgs& a, int64_t row, const F& f) {
  const int64_t first = row / a.patch * (a.cols / a.patch);
  for (int64_t col = 0; col < a.cols; ++col)
    f(row * a.cols + col, first + col / a.patch,
      (row % a.patch * a.patch + col % a.patch) * a.channels);
}

RTFM_INLINE void copy_values(const GridArgs& a, const float* x, Operand* y) {
  for_each_vector(a.channels, [&](int64_t j, int64_t n) {
    const vf v = load_some(x + j, n);
    store_some(y + j, a.limit > 0 ? signed_sigmoid(v * (2.f / a.limit)) * a.limit : v, n);
  });
}

void to_grid(const GridArgs& a, int64_t task, int64_t) {
  for_each_place(a, task, [&](int64_t place, int64_t token, int64_t at) {
    copy_values(a, a.x + token * a.x_stride + at, static_cast<Operand*>(a.y) + place * a.y_stride);
  });
}

void from_grid(const GridArgs& a, int64_t task, int64_t) {
  for_each_place(a, task, [&](int64_t place, int64_t token, int64_t at) {
    copy_values(a, a.x + place * a.x_stride, static_cast<Operand*>(a.y) + token * a.y_stride + at);
  });
}

}  // namespace rtfm::cpu::RTFM_TIER
