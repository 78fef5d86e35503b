// SPDX-License-Identifier: Apache-2.0
// The sampler update with its noise, and the patch codec.
#pragma once

#include "csrc/cuda/body.h"

namespace rtfm::cuda {

// Philox 4x32-10 (Salmon et al., 2011) on the counter {group, step, frame}, then Box-Muller: the
// normals of elements 4·group .. 4·group + 3. Uniforms have 24 bits, exact in f32.
RTFM_BODY Quad normals(uint32_t group, uint32_t step, uint64_t frame, uint64_t seed) {
  uint32_t c0 = group, c1 = step, c2 = uint32_t(frame), c3 = uint32_t(frame >> 32);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t p0 = uint64_t(c0) * 0xD2511F53u, p1 = uint64_t(c2) * 0xCD9E8D57u;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1, c3 = uint32_t(p0);
  }
  const uint32_t bits[4] = {c0 >> 8, c1 >> 8, c2 >> 8, c3 >> 8};
  constexpr float kUnit = 1.f / 16777216.f;
  Quad n;
  for (int i = 0; i < 4; i += 2) {
    const float radius = sqrtf(-2.f * logf((float(bits[i]) + 1.f) * kUnit));
    float cos, sin;
    cos_sin_turn(float(bits[i + 1]) * kUnit, cos, sin);
    n.v[i] = radius * cos, n.v[i + 1] = radius * sin;
  }
  return n;
}

// Elements 4·group .. 4·group + 3 of the matrix, row by row.
RTFM_BODY void sampler_group(const SamplerArgs& a, int64_t group) {
  Quad noise{};
  if (a.c != 0.f) noise = normals(uint32_t(group), a.step, a.inputs->frame, a.inputs->seed);
  for (int i = 0; i < 4; ++i) {
    const int64_t element = 4 * group + i, row = element / a.cols, col = element % a.cols;
    if (row >= a.rows) return;
    float& x = a.x[row * a.x_stride + col];
    x = x * a.a + a.x0[row * a.x0_stride + col] * a.b + noise.v[i] * a.c;
    if (a.operand) static_cast<Half*>(a.operand)[row * a.operand_stride + col] = to_half(x);
  }
}

// Where value `at` of a picture [height, width, 3] lies among the patches: token, and index in it.
struct PatchValue {
  int64_t token, index;
};
RTFM_BODY PatchValue patch_value(int64_t width, int64_t patch, int64_t at) {
  const int side = int(patch), line = int(width) * 3, run = side * 3;  // run: a patch row
  const int y = int(at) / line, x = int(at) % line;
  return {int64_t(y / side) * (int(width) / side) + x / run, int64_t(y % side) * run + x % run};
}

RTFM_BODY void patchify_value(const PatchifyArgs& a, int64_t at) {
  const PatchValue to = patch_value(a.width, a.patch, at);
  static_cast<Half*>(a.tokens)[to.token * a.tokens_stride + to.index] =
      to_half(float(a.image[at]) / a.divisor - a.offset);
}

RTFM_BODY void unpatchify_value(const UnpatchifyArgs& a, int64_t at) {
  const PatchValue from = patch_value(a.width, a.patch, at);
  const float v = (a.tokens[from.token * a.tokens_stride + from.index] + a.offset) * a.divisor;
  const float clamped = v > 0.f ? (v < 255.f ? v : 255.f) : 0.f;  // NaN becomes 0
  a.image[at] = uint8_t(rintf(clamped));                          // ties to even
}

}  // namespace rtfm::cuda
