// SPDX-License-Identifier: Apache-2.0
// What the bodies of kernels are written in. A body is plain code over a `Group` of threads that
// work on one row together; nvcc compiles it for a block or a warp, and the tests compile it for
// the host.
//
//   int thread(), threads()            0 .. threads()-1, and how many: one, or a multiple of 32
//   float shuffle_xor(float v, int m)  the v of thread() ^ m, within 32 consecutive threads
//   float* shared()                    32 floats that the group shares
//   void sync()                        all threads have come here
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "csrc/backend.h"

#ifdef __CUDACC__
#define RTFM_BODY __host__ __device__ __forceinline__
#else
#define RTFM_BODY inline
#endif

namespace rtfm::cuda {

constexpr float kLog2E = 1.44269504f;

using Half = uint16_t;  // the bits of a bf16
struct alignas(16) Quad {
  float v[4];
};
struct alignas(8) HalfQuad {
  Half v[4];
};
struct alignas(16) HalfOctet {
  Half v[8];
};

RTFM_BODY float from_half(Half h) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(uint32_t(h) << 16);
#else
  const uint32_t bits = uint32_t(h) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
#endif
}

// Rounds to nearest even; NaN stays NaN.
RTFM_BODY Half to_half(float x) {
#ifdef __CUDA_ARCH__
  Half h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
#else
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return Half(bits >> 16 | 0x40);
  return Half((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}

// cos and sin of 2π·turn
RTFM_BODY void cos_sin_turn(float turn, float& cos, float& sin) {
#ifdef __CUDA_ARCH__
  sincospif(2.f * turn, &sin, &cos);
#else
  const double angle = 6.283185307179586 * double(turn);
  cos = float(std::cos(angle)), sin = float(std::sin(angle));
#endif
}

// Four floats from p, zeros where fewer are left; aligned: p is, and left is a multiple of 4.
RTFM_BODY Quad load_quad(const float* p, int64_t left, bool aligned) {
  Quad q{};
  if (aligned && left > 0) return *reinterpret_cast<const Quad*>(p);
  for (int i = 0; i < 4; ++i)
    if (i < left) q.v[i] = p[i];
  return q;
}

// `left` of four values to p, at most all.
RTFM_BODY void store_quad(float* p, const Quad& q, int64_t left) {
  if (left >= 4 && reinterpret_cast<uintptr_t>(p) % sizeof q == 0) {
    *reinterpret_cast<Quad*>(p) = q;
    return;
  }
  for (int i = 0; i < 4; ++i)
    if (i < left) p[i] = q.v[i];
}
RTFM_BODY void store_quad(Half* p, const Quad& q, int64_t left) {
  HalfQuad half;
  for (int i = 0; i < 4; ++i) half.v[i] = to_half(q.v[i]);
  if (left >= 4 && reinterpret_cast<uintptr_t>(p) % sizeof half == 0) {
    *reinterpret_cast<HalfQuad*>(p) = half;
    return;
  }
  for (int i = 0; i < 4; ++i)
    if (i < left) p[i] = half.v[i];
}

// The sum of v over the group, to every thread of it.
template <class Group>
RTFM_BODY float sum(Group& g, float v) {
  if (g.threads() == 1) return v;
  for (int mask = 16; mask > 0; mask /= 2) v += g.shuffle_xor(v, mask);
  const int warps = g.threads() / 32;
  if (warps == 1) return v;
  g.sync();  // whoever still reads `shared` is done
  if (g.thread() % 32 == 0) g.shared()[g.thread() / 32] = v;
  g.sync();
  float total = 0.f;
  for (int w = 0; w < warps; ++w) total += g.shared()[w];
  return total;
}

}  // namespace rtfm::cuda
