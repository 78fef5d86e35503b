// SPDX-License-Identifier: Apache-2.0
// The patch codec of networks that see where their pixels lie.
#pragma once

#include "csrc/cuda/body.h"

namespace rtfm::cuda {

// out: [o×d, d] of the ray through (x, y), in units of image width and height from the middle
RTFM_BODY void put_ray(const Camera& camera, float x, float y, Half* out) {
  const float* m = camera.pose;
  const float u = x / camera.fx, v = y / camera.fy;
  const float inverse = 1.f / sqrtf(u * u + v * v + 1.f);
  float d[3];
  for (int i = 0; i < 3; ++i) d[i] = (m[4 * i] * u + m[4 * i + 1] * v + m[4 * i + 2]) * inverse;
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    out[i] = to_half(m[4 * j + 3] * d[k] - m[4 * k + 3] * d[j]);
    out[3 + i] = to_half(d[i]);
  }
}

// An item: a pixel.
RTFM_BODY int64_t items(const RayPatchesArgs& a) { return a.height * a.width; }
RTFM_BODY void item(const RayPatchesArgs& a, int64_t i) {
  const int side = int(a.patch), width = int(a.width), y = int(i) / width, x = int(i) % width;
  const int64_t token = int64_t(y / side) * (width / side) + x / side;
  const int colours = a.image ? 3 : 0, pixel = y % side * side + x % side;
  Half* out = static_cast<Half*>(a.tokens) + token * a.tokens_stride + pixel * (colours + 6);
  for (int c = 0; c < colours; ++c) out[c] = to_half(float(a.image[3 * i + c]) / 127.5f - 1.f);
  put_ray(a.inputs->camera, (float(x) + 0.5f) / float(a.width) - 0.5f,
          (float(y) + 0.5f) / float(a.height) - 0.5f, out + colours);
}

}  // namespace rtfm::cuda
