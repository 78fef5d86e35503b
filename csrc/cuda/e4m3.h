// SPDX-License-Identifier: Apache-2.0
// Rounding to e4m3: one sign bit, 4 of exponent (bias 7), 3 of mantissa, no infinity. Host code,
// without branches, so that loops become vector code.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace rtfm::cuda {

constexpr float kE4m3Max = 448.f;

inline int32_t bits_of(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float from_bits(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// To nearest even; what is beyond 448 becomes 448, NaN stays NaN.
inline uint8_t to_e4m3(float x) {
  const int32_t size = bits_of(x) & 0x7fff'ffff;
  const int32_t kept = std::min(size, bits_of(kE4m3Max));
  const int32_t exponent = std::max(kept >> 23, 127 - 6);  // -6: of the smallest normal ones
  const int32_t large = (exponent + 20) << 23;             // its last place is that of e4m3
  const int32_t places = bits_of(from_bits(kept) + from_bits(large)) - large;
  const int32_t code = size > 0x7f80'0000 ? 0x7f : (exponent - (127 - 6)) * 8 + places;
  return uint8_t(code | (bits_of(x) >> 24 & 0x80));
}

// `count` values in units of max|x| / 448, which it returns; in units of 1 where that is none.
inline float quantize(const float* x, int64_t count, uint8_t* q) {
  int32_t peak = 0;  // sizes of floats compare as integers do
  for (int64_t i = 0; i < count; ++i) peak = std::max(peak, bits_of(x[i]) & 0x7fff'ffff);
  const float scale = from_bits(peak) / kE4m3Max, unit = scale > 0 ? scale : 1.f;
  for (int64_t i = 0; i < count; ++i) q[i] = to_e4m3(x[i] / unit);
  return unit;
}

}  // namespace rtfm::cuda
