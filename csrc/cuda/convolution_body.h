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
  const int octets = int(a.stride / 8), place = int(a.first) + int(i) / octets;
  const int k = int(i) % octets * 8;
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

// An item: four values of a row.
RTFM_BODY int64_t items(const EpilogueArgs& a) { return a.rows * ((a.n + 3) / 4); }

RTFM_BODY float finished(Epilogue epilogue, float r, float residual) {
  switch (epilogue) {
    case Epilogue::signed_sigmoid:
      return tanhf(0.5f * r);
    case Epilogue::relu:
      return r < 0.f ? 0.f : r;  // NaN stays NaN
    case Epilogue::residual_relu:
      return residual + r < 0.f ? 0.f : residual + r;
    default:  // store, operand
      return r;
  }
}

RTFM_BODY void item(const EpilogueArgs& a, int64_t i) {
  const int64_t quads = (a.n + 3) / 4, row = i / quads, col = i % quads * 4, left = a.n - col;
  const int64_t at = row * a.y_stride + col;
  const Half* residual = static_cast<const Half*>(a.residual);
  if (residual) residual += row * a.residual_stride + col;
  Quad v = load_quad(a.r + row * a.r_stride + col, left, true);
  for (int j = 0; j < 4; ++j)
    v.v[j] = finished(a.epilogue, v.v[j], residual && j < left ? from_half(residual[j]) : 0.f);
  if (a.epilogue == Epilogue::store || a.epilogue == Epilogue::signed_sigmoid)
    store_quad(static_cast<float*>(a.y) + at, v, left);
  else
    store_quad(static_cast<Half*>(a.y) + at, v, left);
}

}  // namespace rtfm::cuda
