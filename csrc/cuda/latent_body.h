// SPDX-License-Identifier: Apache-2.0
// What surrounds a latent: what its network is conditioned on, its place in a page, its squares. An
// item of each op is what one thread does.
#pragma once

#include "csrc/cuda/body.h"

namespace rtfm::cuda {

RTFM_BODY int64_t items(const ConditionArgs& a) { return a.rows * a.cols; }
RTFM_BODY void item(const ConditionArgs& a, int64_t i) {
  const int64_t row = i / a.cols, col = i % a.cols;
  float v = a.base[i];
  for (int64_t j = 0; j < a.count; ++j) v += a.weight[j * a.cols + col] * a.actions[j];
  static_cast<Half*>(a.y)[row * a.y_stride + col] = to_half(v / (1.f + expf(-v)));
}

RTFM_BODY int64_t items(const SaveFrameArgs& a) { return a.rows * a.cols + a.actions; }
RTFM_BODY void item(const SaveFrameArgs& a, int64_t i) {
  const int64_t latent = a.rows * a.cols;
  float* to = reinterpret_cast<float*>(static_cast<char*>(a.inputs->page) + a.offset);
  to[i] = i < latent ? a.x[i / a.cols * a.x_stride + i % a.cols] : a.inputs->actions[i - latent];
}

RTFM_BODY int64_t items(const LoadFrameArgs& a) { return a.rows * a.cols + a.count; }
RTFM_BODY void item(const LoadFrameArgs& a, int64_t i) {
  const int64_t latent = a.rows * a.cols;
  const char* page = static_cast<const char*>(a.inputs->page);
  const float value = reinterpret_cast<const float*>(page + a.offset)[i];
  (i < latent ? a.x[i / a.cols * a.x_stride + i % a.cols] : a.actions[i - latent]) = value;
}

// Where value i of the squares [height/p * width/p, p*p*channels] lies in them and in the grid.
struct SquareValue {
  int64_t token, index, cell, channel;
};
template <class Args>
RTFM_BODY SquareValue square_value(const Args& a, int64_t i) {
  const int channels = int(a.channels), side = int(a.patch), across = int(a.width) / side;
  const int size = side * side * channels, token = int(i / size), index = int(i % size);
  const int row = token / across * side + index / (side * channels);
  const int col = token % across * side + index / channels % side;
  return {token, index, row * a.width + col, index % channels};
}

RTFM_BODY int64_t items(const GroupArgs& a) { return a.height * a.width * a.channels; }
RTFM_BODY void item(const GroupArgs& a, int64_t i) {
  const SquareValue at = square_value(a, i);
  a.tokens[at.token * a.tokens_stride + at.index] = a.grid[at.cell * a.grid_stride + at.channel];
}

RTFM_BODY int64_t items(const UngroupArgs& a) { return a.height * a.width * a.channels; }
RTFM_BODY void item(const UngroupArgs& a, int64_t i) {
  const SquareValue at = square_value(a, i);
  const float v = a.tokens[at.token * a.tokens_stride + at.index];
  static_cast<Half*>(a.grid)[at.cell * a.grid_stride + at.channel] =
      to_half(a.limit > 0.f ? a.limit * tanhf(v / a.limit) : v);
}

// Sixteen bytes.
RTFM_BODY void copy_some(const char* from, char* to, int64_t left) {
  if (left >= 16 && (reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to)) % 16 == 0)
    *reinterpret_cast<Quad*>(to) = *reinterpret_cast<const Quad*>(from);
  else
    for (int64_t i = 0; i < (left < 16 ? left : 16); ++i) to[i] = from[i];
}

struct StateLoad {
  StateCopyArgs args;
};
RTFM_BODY int64_t items(const StateLoad& a) { return (a.args.bytes + 15) / 16; }
RTFM_BODY void item(const StateLoad& load, int64_t i) {
  const StateCopyArgs& a = load.args;
  const char* state = static_cast<const char*>(a.inputs->state) + a.offset;
  copy_some(state + 16 * i, static_cast<char*>(a.memory) + 16 * i, a.bytes - 16 * i);
}

struct StateStore {
  StateCopyArgs args;
};
RTFM_BODY int64_t items(const StateStore& a) { return (a.args.bytes + 15) / 16; }
RTFM_BODY void item(const StateStore& store, int64_t i) {
  const StateCopyArgs& a = store.args;
  char* state = static_cast<char*>(a.inputs->next_state) + a.offset;
  copy_some(static_cast<const char*>(a.memory) + 16 * i, state + 16 * i, a.bytes - 16 * i);
}

}  // namespace rtfm::cuda
