// SPDX-License-Identifier: Apache-2.0
// Around the products of a convolution: what its kernel sees, as rows of a matrix, and epilogues.
#pragma once

#include "csrc/cuda/api.h"
#include "csrc/cuda/body.h"

namespace rtfm::cuda {

RTFM_BODY bool on_octets(const void* p, int64_t stride, int64_t channels) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride % 8 == 0 && channels % 8 == 0;
}

// Value k of what is seen at (row, col), the upper left corner of the kernel in the zoomed input;
// null for zero.
RTFM_BODY const Half* seen_value(const ConvolutionArgs& a, int row, int col, int k) {
  const int channels = int(a.channels), all = channels + int(a.past_channels);
  const int tap = k / all, channel = k % all, side = int(a.side), zoom = int(a.zoom);
  row += tap / side, col += tap % side;
  if (row < 0 || col < 0 || row >= int(a.height) * zoom || col >= int(a.width) * zoom)
    return nullptr;
  const int64_t place = int64_t(row / zoom) * a.width + col / zoom;
  if (channel < channels) return static_cast<const Half*>(a.x) + place * a.x_stride + channel;
  if (!a.past) return nullptr;
  return static_cast<const Half*>(a.past) + place * a.past_stride + (channel - channels);
}

// An item: eight values of a row.
RTFM_BODY int64_t items(const UnfoldArgs& a) { return a.places * (a.stride / 8); }

RTFM_BODY void item(const UnfoldArgs& a, int64_t i) {
  const ConvolutionArgs& c = a.of;
  const int octets = int(a.stride / 8), place = int(a.first + i / octets), k = int(i % octets) * 8;
  const int row = place / int(a.cols) * int(c.stride) - int(c.padding);
  const int col = place % int(a.cols) * int(c.stride) - int(c.padding);
  const int depth = int(c.side * c.side * (c.channels + c.past_channels));
  HalfOctet values{};
  if (on_octets(c.x, c.x_stride, c.channels) && on_octets(c.past, c.past_stride, c.past_channels)) {
    const Half* from = k < depth ? seen_value(c, row, col, k) : nullptr;
    if (from) values = *reinterpret_cast<const HalfOctet*>(from);
  } else {
    for (int j = 0; j < 8 && k + j < depth; ++j)
      if (const Half* from = seen_value(c, row, col, k + j)) values.v[j] = *from;
  }
  static_cast<HalfOctet*>(a.seen)[i] = values;
}

// An item: a value of y.
RTFM_BODY int64_t items(const EpilogueArgs& a) { return a.rows * a.n; }

RTFM_BODY void item(const EpilogueArgs& a, int64_t i) {
  const int64_t row = i / a.n, col = i % a.n;
  const float r = a.r[row * a.r_stride + col];
  float* wide = static_cast<float*>(a.y) + row * a.y_stride + col;
  Half* y = static_cast<Half*>(a.y) + row * a.y_stride + col;
  const auto positive = [](float x) { return x < 0.f ? 0.f : x; };  // NaN stays NaN
  switch (a.epilogue) {
    case Epilogue::store:
      *wide = r;
      break;
    case Epilogue::signed_sigmoid:
      *wide = tanhf(0.5f * r);
      break;
    case Epilogue::relu:
      *y = to_half(positive(r));
      break;
    case Epilogue::residual_relu: {
      const Half* residual = static_cast<const Half*>(a.residual) + row * a.residual_stride + col;
      *y = to_half(positive(from_half(*residual) + r));
      break;
    }
    default:  // operand
      *y = to_half(r);
  }
}

}  // namespace rtfm::cuda
