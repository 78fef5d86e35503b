// SPDX-License-Identifier: Apache-2.0
// The patch codec of networks that see where their pixels lie.
#include "csrc/cpu/rays.h"

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

// out: [o×d, d] of the ray through (x, y), in units of image width and height from the middle
RTFM_INLINE void put_ray(const Camera& camera, float x, float y, Operand* out) {
  const float* m = camera.pose;
  const float u = x / camera.fx, v = y / camera.fy;
  const float inverse = 1.f / __builtin_sqrtf(u * u + v * v + 1.f);
  float d[3];
  for (int i = 0; i < 3; ++i) d[i] = (m[4 * i] * u + m[4 * i + 1] * v + m[4 * i + 2]) * inverse;
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    out[i] = to_operand(m[4 * j + 3] * d[k] - m[4 * k + 3] * d[j]);
    out[3 + i] = to_operand(d[i]);
  }
}

int64_t ray_patches_tasks(const RayPatchesArgs& a, int) { return a.height / a.patch; }

// task: a row of patches
void ray_patches(const RayPatchesArgs& a, int64_t task, int64_t) {
  const int64_t across = a.width / a.patch, colours = a.image ? 3 : 0, values = colours + 6;
  for (int64_t row = 0; row < a.patch; ++row) {
    const int64_t y = task * a.patch + row;
    for (int64_t x = 0; x < a.width; ++x) {
      const int64_t token = task * across + x / a.patch, pixel = row * a.patch + x % a.patch;
      Operand* out = static_cast<Operand*>(a.tokens) + token * a.tokens_stride + pixel * values;
      for (int64_t c = 0; c < colours; ++c)
        out[c] = to_operand(float(a.image[(y * a.width + x) * 3 + c]) / 127.5f - 1.f);
      put_ray(a.inputs->camera, (float(x) + 0.5f) / float(a.width) - 0.5f,
              (float(y) + 0.5f) / float(a.height) - 0.5f, out + colours);
    }
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
