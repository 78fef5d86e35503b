// SPDX-License-Identifier: Apache-2.0
// The ops of single families on an emulated CUDA device.
#include "csrc/cuda/convolution_body.h"
#include "csrc/cuda/layout.h"
#include "csrc/cuda/rays_body.h"
#include "csrc/cuda/time_body.h"
#include "tests/cuda_emulator_groups.h"
#include "tests/cuda_emulator_ops.h"

namespace rtfm::testing {

using namespace rtfm::cuda;

namespace {

int64_t rows_of(int64_t rows, int64_t cols, int64_t stride, int64_t element) {
  return ((rows - 1) * stride + cols) * element;
}

template <class Args>
void run_items(const Args& a) {
  for (int64_t i = 0; i < items(a); ++i) item(a, i);
}

}  // namespace

std::array<Range, 3> ranges(const EpilogueArgs& a) {
  const int64_t y = a.epilogue == Epilogue::store || a.epilogue == Epilogue::signed_sigmoid ? 4 : 2;
  return {{{a.r, a.rows * a.r_stride * 4},
           {a.residual, a.residual ? rows_of(a.rows, a.n, a.residual_stride, 2) : 0},
           {a.y, rows_of(a.rows, a.n, a.y_stride, y)}}};
}
std::array<Range, 3> ranges(const UnfoldArgs& a) {
  const ConvolutionArgs& c = a.of;
  const int64_t places = c.height * c.width;
  return {{{c.x, rows_of(places, c.channels, c.x_stride, 2)},
           {c.past, c.past ? rows_of(places, c.past_channels, c.past_stride, 2) : 0},
           {a.seen, padded_rows(a.places) * a.stride * 2}}};
}
std::array<Range, 2> ranges(const StateLoad& a) {
  return {{{a.args.inputs, sizeof(StepInputs)}, {a.args.memory, a.args.bytes}}};
}
std::array<Range, 2> ranges(const StateStore& a) {
  return {{{a.args.inputs, sizeof(StepInputs)}, {a.args.memory, a.args.bytes}}};
}
std::array<Range, 3> ranges(const RayPatchesArgs& a) {
  const int64_t area = a.patch * a.patch, tokens = a.height * a.width / area;
  return {{{a.inputs, sizeof(StepInputs)},
           {a.image, a.image ? 3 * a.height * a.width : 0},
           {a.tokens, rows_of(tokens, (a.image ? 9 : 6) * area, a.tokens_stride, 2)}}};
}
std::array<Range, 7> ranges(const TimeAttentionArgs& a) {
  const int64_t width = a.heads * a.dim, rows = rows_of(a.tokens, width, a.stride, 4);
  const int64_t angles = (1 + a.pages) * (a.dim / 2) * 4;
  return {{{a.inputs, sizeof(StepInputs)},
           {a.q, rows},
           {a.k, rows},
           {a.v, rows},
           {a.cos, angles},
           {a.sin, angles},
           {a.y, a.y ? rows_of(a.tokens, width, a.y_stride, 2) : 0}}};
}
std::array<Range, 4> ranges(const ConditionArgs& a) {
  return {{{a.base, a.rows * a.cols * 4},
           {a.weight, a.count * a.cols * 4},
           {a.actions, a.count * 4},
           {a.y, rows_of(a.rows, a.cols, a.y_stride, 2)}}};
}
std::array<Range, 2> ranges(const SaveFrameArgs& a) {
  return {{{a.inputs, sizeof(StepInputs)}, {a.x, rows_of(a.rows, a.cols, a.x_stride, 4)}}};
}
std::array<Range, 3> ranges(const LoadFrameArgs& a) {
  return {{{a.inputs, sizeof(StepInputs)},
           {a.x, rows_of(a.rows, a.cols, a.x_stride, 4)},
           {a.actions, a.count * 4}}};
}

template <class Args>
static std::array<Range, 2> square_ranges(const Args& a, int64_t element) {
  const int64_t cells = a.height * a.width, area = a.patch * a.patch;
  return {{{a.grid, rows_of(cells, a.channels, a.grid_stride, element)},
           {a.tokens, rows_of(cells / area, area * a.channels, a.tokens_stride, 4)}}};
}
std::array<Range, 2> ranges(const GroupArgs& a) { return square_ranges(a, 4); }
std::array<Range, 2> ranges(const UngroupArgs& a) { return square_ranges(a, 2); }

void run(const TimeAttentionArgs& a) {
  if (cuda_emulation().blocks == Blocks::serial) {
    Serial serial;
    for (int64_t unit = 0; unit < a.tokens * a.heads; ++unit)
      attend_in_time<128>(serial, a, unit / a.heads, unit % a.heads);
    return;
  }
  run_groups(a.tokens * a.heads, 32, [&](int64_t unit, auto& group) {
    attend_in_time<kTimePairs>(group, a, unit / a.heads, unit % a.heads);
  });
}

void run(const EpilogueArgs& a) { run_items(a); }
void run(const UnfoldArgs& a) { run_items(a); }
void run(const StateLoad& a) { run_items(a); }
void run(const StateStore& a) { run_items(a); }
void run(const RayPatchesArgs& a) { run_items(a); }
void run(const ConditionArgs& a) { run_items(a); }
void run(const SaveFrameArgs& a) { run_items(a); }
void run(const LoadFrameArgs& a) { run_items(a); }
void run(const GroupArgs& a) { run_items(a); }
void run(const UngroupArgs& a) { run_items(a); }

}  // namespace rtfm::testing
