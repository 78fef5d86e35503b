// SPDX-License-Identifier: Apache-2.0
// The sampler update with its noise, and the patch codec.
#include "csrc/cpu/pointwise.h"

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kNoiseBlock = 64 * VL;  // elements of noise made at a time; a multiple of 4·VL

// Philox 4x32-10 (Salmon et al., 2011) on VL counters {group, step, frame} at once, then
// Box-Muller: n[0..3] are the four normals of each group of four elements.
static void normal_groups(uint32_t group, uint32_t step, uint64_t frame, uint64_t seed, vf n[4]) {
  vu c0, c1 = step - vu{}, c2 = uint32_t(frame) - vu{}, c3 = uint32_t(frame >> 32) - vu{};
  for (int i = 0; i < VL; ++i) c0[i] = group + uint32_t(i);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    vu high0, low0, high1, low1;
    for (int i = 0; i < VL; ++i) {
      const uint64_t p0 = uint64_t(c0[i]) * 0xD2511F53u, p1 = uint64_t(c2[i]) * 0xCD9E8D57u;
      high0[i] = uint32_t(p0 >> 32), low0[i] = uint32_t(p0);
      high1[i] = uint32_t(p1 >> 32), low1[i] = uint32_t(p1);
    }
    c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
  }
  // uniforms with 24 bits, exact in f32: u in (0, 1] for the radius, [0, 1) for the turn
  const auto uniform = [](vu bits) { return __builtin_convertvector((vi)(bits >> 8), vf); };
  const auto box_muller = [](vf u, vf turn, vf& a, vf& b) {
    vf cos{}, sin{}, square = log(u) * -2.f, radius{};
    cos_sin_turn(turn, cos, sin);
    for (int i = 0; i < VL; ++i) radius[i] = __builtin_sqrtf(square[i]);
    a = radius * cos, b = radius * sin;
  };
  constexpr float kUnit = 1.f / 16777216.f;
  box_muller((uniform(c0) + 1.f) * kUnit, uniform(c1) * kUnit, n[0], n[1]);
  box_muller((uniform(c2) + 1.f) * kUnit, uniform(c3) * kUnit, n[2], n[3]);
}

// noise[kNoiseBlock]: elements first, first + 1, ...; first is a multiple of 4
static void draw(const SamplerArgs& a, int64_t first, float* noise) {
  for (int64_t e = 0; e < kNoiseBlock; e += 4 * VL) {
    vf n[4];
    normal_groups(uint32_t((first + e) / 4), a.step, a.inputs->frame, a.inputs->seed, n);
    for (int64_t i = 0; i < VL; ++i)
      for (int64_t j = 0; j < 4; ++j) noise[e + 4 * i + j] = n[j][i];
  }
}

int64_t sampler_tasks(const SamplerArgs& a, int threads) {
  return least<int64_t>(round_up(a.rows, 8) / 8, threads == 1 ? 1 : 4 * threads);
}

void sampler(const SamplerArgs& a, int64_t task, int64_t tasks) {
  alignas(64) float noise[kNoiseBlock] = {};
  int64_t drawn = -kNoiseBlock;  // first element that `noise` holds
  const int64_t first = a.rows * task / tasks, last = a.rows * (task + 1) / tasks;
  for (int64_t row = first; row < last; ++row) {
    float* x = a.x + row * a.x_stride;
    const float* x0 = a.x0 + row * a.x0_stride;
    Operand* copy = a.operand ? static_cast<Operand*>(a.operand) + row * a.operand_stride : nullptr;
    for (int64_t col = 0; col < a.cols;) {
      const int64_t element = row * a.cols + col;
      if (a.c != 0.f && (drawn < 0 || element >= drawn + kNoiseBlock)) {
        drawn = element / 4 * 4;
        draw(a, drawn, noise);
      }
      const int64_t here = a.c != 0.f ? element - drawn : 0;
      const int64_t count = least(a.cols - col, kNoiseBlock - here);
      for_each_vector(count, [&](int64_t j, int64_t n) {
        vf v = load_some(x + col + j, n) * a.a + load_some(x0 + col + j, n) * a.b;
        v += load_some(noise + here + j, n) * a.c;
        store_some(x + col + j, v, n);
        if (copy) store_some(copy + col + j, v, n);
      });
      col += count;
    }
  }
}

// A patch row is 3·patch consecutive values on both sides: f(pixels, first value of the token row)
template <class F>
RTFM_INLINE void for_each_patch_row(int64_t width, int64_t patch, int64_t token, const F& f) {
  const int64_t across = width / patch, y = token / across * patch, x = token % across * patch;
  for (int64_t i = 0; i < patch; ++i) f(((y + i) * width + x) * 3, i * patch * 3);
}

int64_t patchify_tasks(const PatchifyArgs& a, int) { return a.height / a.patch; }

void patchify(const PatchifyArgs& a, int64_t task, int64_t) {
  const int64_t across = a.width / a.patch;
  for (int64_t token = task * across; token < (task + 1) * across; ++token) {
    Operand* out = static_cast<Operand*>(a.tokens) + token * a.tokens_stride;
    for_each_patch_row(a.width, a.patch, token, [&](int64_t pixel, int64_t at) {
      for (int64_t i = 0; i < a.patch * 3; ++i)
        out[at + i] = to_operand(float(a.image[pixel + i]) / a.divisor - a.offset);
    });
  }
}

int64_t unpatchify_tasks(const UnpatchifyArgs& a, int) { return a.height / a.patch; }

void unpatchify(const UnpatchifyArgs& a, int64_t task, int64_t) {
  const int64_t across = a.width / a.patch;
  for (int64_t token = task * across; token < (task + 1) * across; ++token) {
    const float* in = a.tokens + token * a.tokens_stride;
    for_each_patch_row(a.width, a.patch, token, [&](int64_t pixel, int64_t at) {
      for (int64_t i = 0; i < a.patch * 3; ++i) {
        const float v = (in[at + i] + a.offset) * a.divisor;
        const float clamped = v > 0.f ? least(v, 255.f) : 0.f;  // NaN becomes 0
        a.image[pixel + i] =
            uint8_t(__builtin_rintf(clamped));  // ties to even, as NumPy and PyTorch
      }
    });
  }
}

}  // namespace rtfm::cpu::RTFM_TIER
