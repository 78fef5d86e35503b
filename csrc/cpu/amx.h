// SPDX-License-Identifier: Apache-2.0
// AMX tiles, all configured as 16 rows of 64 bytes. A step multiplies 32 rows by 32 columns over a
// depth of 32 bf16: tiles 0..3 accumulate, 4..5 hold rows of A, 6..7 columns of B (pairs
// interleaved).
#pragma once

#include <immintrin.h>

#include "csrc/cpu/vec.h"

namespace rtfm::cpu::RTFM_TIER {

constexpr int64_t kTile = 16 * 32;  // bf16 elements

// The tile state of a thread, for the length of a task: outside of it the caller's thread is clean.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) Config {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    const Config config;
    // not _tile_loadconfig: GCC lets the stores to its argument be dropped
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

RTFM_INLINE void memory_barrier() { asm volatile("" ::: "memory"); }

RTFM_INLINE void clear_accumulators() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// a: two tiles of 16 rows at `a_stride` bytes from row to row; b: two packed tiles.
RTFM_INLINE void multiply_tiles(const Operand* a0, const Operand* a1, int64_t a_stride,
                                const Operand* b0, const Operand* b1) {
  _tile_loadd(4, a0, a_stride);
  _tile_loadd(6, b0, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, b1, 64);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(5, a1, a_stride);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// c[32, 32] f32, or s32 from bytes, at `stride` elements from row to row.
RTFM_INLINE void load_accumulators(const float* c, int64_t stride) {
  _tile_loadd(0, c, stride * 4);
  _tile_loadd(1, c + 16, stride * 4);
  _tile_loadd(2, c + 16 * stride, stride * 4);
  _tile_loadd(3, c + 16 * stride + 16, stride * 4);
}
template <class T>
RTFM_INLINE void store_accumulators(T* c, int64_t stride) {
  memory_barrier();
  _tile_stored(0, c, stride * 4);
  _tile_stored(1, c + 16, stride * 4);
  _tile_stored(2, c + 16 * stride, stride * 4);
  _tile_stored(3, c + 16 * stride + 16, stride * 4);
  memory_barrier();
}

}  // namespace rtfm::cpu::RTFM_TIER
