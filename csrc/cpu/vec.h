// SPDX-License-Identifier: Apache-2.0
// One SIMD vector of the tier being compiled, on GCC/Clang vector extensions: RTFM_VEC_BYTES wide.
// RTFM_TIER names the namespace; RTFM_BF16 makes bf16 the operand dtype.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace rtfm::cpu::RTFM_TIER {

typedef float vf __attribute__((vector_size(RTFM_VEC_BYTES)));
typedef int32_t vi __attribute__((vector_size(RTFM_VEC_BYTES)));
typedef uint32_t vu __attribute__((vector_size(RTFM_VEC_BYTES)));
typedef uint16_t vh __attribute__((vector_size(RTFM_VEC_BYTES / 2)));
typedef uint16_t vhh __attribute__((vector_size(RTFM_VEC_BYTES)));

constexpr int64_t VL = RTFM_VEC_BYTES / 4;  // floats per vector

#define RTFM_INLINE static inline __attribute__((always_inline))

RTFM_INLINE vf splat(float x) { return x - vf{}; }
RTFM_INLINE vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
RTFM_INLINE void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
RTFM_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
using Lanes = std::make_index_sequence<size_t(VL)>;

// The lanes I of a, and of b from VL on.
template <int... I>
RTFM_INLINE vf shuffle(vf a, vf b) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, I...);
#else  // GCC 11
  return __builtin_shuffle(a, b, vi{I...});
#endif
}

// All lanes into one, half by half.
template <int64_t Half, class F, size_t... I>
RTFM_INLINE vf fold(vf v, const F& f, std::index_sequence<I...> lanes) {
  v = f(v, shuffle<int((I + Half) % VL)...>(v, v));
  if constexpr (Half > 1) return fold<Half / 2>(v, f, lanes);
  return v;
}
RTFM_INLINE float sum(vf v) {
  return fold<VL / 2>(v, [](vf a, vf b) { return a + b; }, Lanes())[0];
}
RTFM_INLINE int32_t sum(vi v) {
  const auto add = [](vf a, vf b) { return (vf)((vi)a + (vi)b); };
  return ((vi)fold<VL / 2>((vf)v, add, Lanes()))[0];
}
RTFM_INLINE float highest_of(vf v) { return fold<VL / 2>(v, max, Lanes())[0]; }
RTFM_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
template <class T>
RTFM_INLINE T least(T a, T b) {
  return a < b ? a : b;
}
RTFM_INLINE int64_t round_up(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// bf16 is the upper half of an f32; rounding is to nearest even.
RTFM_INLINE uint16_t to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

#ifdef RTFM_BF16
using Operand = uint16_t;
RTFM_INLINE void store(Operand* p, vf v) {
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &h, sizeof h);
}
RTFM_INLINE vf load(const Operand* p) {
  vh h;
  std::memcpy(&h, p, sizeof h);
  return (vf)(__builtin_convertvector(h, vu) << 16);
}
RTFM_INLINE Operand to_operand(float x) { return to_bf16(x); }
// Words of two bf16: `even` in the lower half, `odd` in the upper one.
RTFM_INLINE vf paired(vf even, vf odd) {
  constexpr auto alternate = []<size_t... I>(std::index_sequence<I...>) {
    return vhh{uint16_t(I / 2 + I % 2 * size_t(VL))...};
  }(std::make_index_sequence<2 * size_t(VL)>());
  const __m512bh halves = _mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
  return (vf)_mm512_permutexvar_epi16((__m512i)alternate, (__m512i)halves);
}
#else
using Operand = float;
RTFM_INLINE Operand to_operand(float x) { return x; }
#endif

// The first `count` < VL elements; zeros behind them, and nothing else in memory is touched.
#ifdef __AVX512F__
RTFM_INLINE __mmask16 first_lanes(int64_t count) { return __mmask16((1u << count) - 1); }
RTFM_INLINE vf load_part(const float* p, int64_t count) {
  return (vf)_mm512_maskz_loadu_ps(first_lanes(count), p);
}
RTFM_INLINE void store_part(float* p, vf v, int64_t count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), (__m512)v);
}
#else
RTFM_INLINE void copy_part(float* to, const float* from, int64_t count) {
#pragma GCC unroll 4
  for (int64_t half = VL / 2; half > 0; half /= 2)  // of constant size, so without a call
    if (count & half) {
      std::memcpy(to, from, size_t(half) * 4);
      to += half, from += half;
    }
}
RTFM_INLINE vf load_part(const float* p, int64_t count) {
  float full[VL] = {};
  copy_part(full, p, count);
  return load(full);
}
RTFM_INLINE void store_part(float* p, vf v, int64_t count) {
  float full[VL];
  store(full, v);
  copy_part(p, full, count);
}
#endif
#ifdef RTFM_BF16
RTFM_INLINE vf load_part(const Operand* p, int64_t count) {
  const __m256i h = _mm256_maskz_loadu_epi16(first_lanes(count), p);
  return (vf)(__builtin_convertvector((vh)h, vu) << 16);
}
RTFM_INLINE void store_part(Operand* p, vf v, int64_t count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
#endif

// f(first, count) over `count` elements, a vector at a time; the last call may be a part of one.
template <class F>
RTFM_INLINE void for_each_vector(int64_t count, const F& f) {
  int64_t j = 0;
  for (; j + VL <= count; j += VL) f(j, VL);
  if (j < count) f(j, count - j);
}

template <class T>
RTFM_INLINE vf load_some(const T* p, int64_t count) {
  return count == VL ? load(p) : load_part(p, count);
}
template <class T>
RTFM_INLINE void store_some(T* p, vf v, int64_t count) {
  if (count == VL)
    store(p, v);
  else
    store_part(p, v, count);
}

// A row of numbers, from operands to f32, back, or as they are.
template <class From, class To>
RTFM_INLINE void copy_row(const From* from, int64_t count, To* to) {
  for_each_vector(count,
                  [&](int64_t j, int64_t n) { store_some(to + j, load_some(from + j, n), n); });
}

// 2^x for x <= 127 with a relative error below 3e-7, exact for integers; below 2^-126 it ends in 0.
// exp2_coarse: for x <= 0 with one below 7.5e-5; may end in 2^-125.
#ifdef __AVX512F__
RTFM_INLINE vf above_floor(vf x) {  // x - floor(x)
  // in place, because Zen 4 waits for what the destination held, which takes 4 times as long
  asm("vreduceps $1, %0, %0" : "+v"(x));
  return x;
}
RTFM_INLINE vf exp2(vf x) {
  const vf f = above_floor(x);
  vf p = splat(1.86713007e-3f);
  p = p * f + 9.01703032e-3f;
  p = p * f + 5.57999131e-2f;
  p = p * f + 2.40164450e-1f;
  p = p * f + 6.93151312e-1f;
  p = p * f + 1.f;
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);  // p * 2^floor(x)
}
RTFM_INLINE vf exp2_coarse(vf x) {
  const vf f = above_floor(x);
  const vf p = ((f * 7.8024521e-2f + 2.2606716e-1f) * f + 6.9583354e-1f) * f + 9.9992520e-1f;
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
}
RTFM_INLINE vf reciprocal(vf x) {  // off by 1.2e-7 of itself at most
  const vf r = (vf)_mm512_rcp14_ps((__m512)x);
  return r * (2.f - x * r);
}
#else
RTFM_INLINE vf exp2(vf x) {
  x = max(x, splat(-127.f));
  const vf shifted = x + splat(12582912.f);  // 1.5·2^23: the integer part lands in the low mantissa
  const vf f = x - (shifted - splat(12582912.f));
  vf p = splat(1.32647273e-3f);
  p = p * f + 9.67151299e-3f;
  p = p * f + 5.55073358e-2f;
  p = p * f + 2.40222424e-1f;
  p = p * f + 6.93147004e-1f;
  p = p * f + 1.f;
  const vi exponent = (vi)shifted << 23;
  return x > splat(-126.f) ? (vf)((vi)p + exponent) : vf{};
}
RTFM_INLINE vf exp2_coarse(vf x) {
  x = max(x, splat(-125.f));
  const vi exponent = __builtin_convertvector(x, vi);
  const vf f = x - __builtin_convertvector(exponent, vf);  // in (-1, 0]
  const vf p = ((f * 3.9012261e-2f + 2.3007036e-1f) * f + 6.9102071e-1f) * f + 9.9992521e-1f;
  return (vf)((vi)p + (exponent << 23));
}
RTFM_INLINE vf reciprocal(vf x) { return 1.f / x; }
#endif

// Natural logarithm of x in (0, 1]; relative error below 3e-7 (Cephes' polynomial in m - 1).
RTFM_INLINE vf log(vf x) {
  const vi bits = (vi)x;
  vi e = (bits >> 23) - 126;
  vf m = (vf)((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  const vi small = m < splat(0.70710678f);
  e += small;  // true is -1
  m = small ? m + m : m;
  const vf t = m - splat(1.f), z = t * t;
  vf p = splat(7.0376836292e-2f);
  p = p * t - 1.1514610310e-1f;
  p = p * t + 1.1676998740e-1f;
  p = p * t - 1.2420140846e-1f;
  p = p * t + 1.4249322787e-1f;
  p = p * t - 1.6668057665e-1f;
  p = p * t + 2.0000714765e-1f;
  p = p * t - 2.4999993993e-1f;
  p = p * t + 3.3333331174e-1f;
  const vf k = __builtin_convertvector(e, vf);
  return t + (p * t * z - 0.5f * z) + k * 0.69314718056f;
}

// cos and sin of 2πu, u in [0, 1): Cephes' polynomials on |angle| <= π/4.
RTFM_INLINE void cos_sin_turn(vf u, vf& c, vf& s) {
  const vi quarter = __builtin_convertvector(u * 4.f + 0.5f, vi);
  const vf a = (u - __builtin_convertvector(quarter, vf) * 0.25f) * 6.28318530718f, z = a * a;
  const vf cos = ((2.4433157e-5f * z - 1.3887316e-3f) * z + 4.1666646e-2f) * z * z - 0.5f * z + 1.f;
  const vf sin = ((-1.9515296e-4f * z + 8.3321609e-3f) * z - 1.6666655e-1f) * z * a + a;
  const vi odd = (quarter & 1) != 0;
  const vf x = odd ? sin : cos, y = odd ? cos : sin;
  c = (((quarter + 1) & 2) != 0) ? -x : x;
  s = ((quarter & 2) != 0) ? -y : y;
}

RTFM_INLINE vf signed_sigmoid(vf x) {  // tanh(x/2)
  return 2.f * reciprocal(exp2(min(x * -1.44269504f, splat(126.f))) + 1.f) - 1.f;
}

RTFM_INLINE vf silu(vf x) {
  return x * reciprocal(exp2(min(x * -1.44269504f, splat(126.f))) + 1.f);
}

// x/2 · (1 + erf(x/√2)); erfc by Abramowitz and Stegun 7.1.26 in its 5-term form is 1.5e-7 off.
RTFM_INLINE vf gelu_erf(vf x) {
  const vf z = max(x, -x) * 0.70710678f;
  const vf t = reciprocal(z * 0.3275911f + 1.f);
  const vf poly = ((((t * 1.061405429f - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t +
                   0.254829592f) *
                  t;
  const vf tail = poly * exp2(max(z * z * -1.44269504f, splat(-127.f))) * 0.5f;  // Φ(-|x|)
  return x * (x > vf{} ? splat(1.f) - tail : tail);
}

// x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³))), written as x · sigmoid.
RTFM_INLINE vf gelu_tanh(vf x) {
  const vf u = x * (x * x * -0.10294324f - 2.3022082f);  // -2·√(2/π)·log2(e)·(…)
  return x * reciprocal(exp2(min(u, splat(126.f))) + 1.f);
}

}  // namespace rtfm::cpu::RTFM_TIER
