// SPDX-License-Identifier: Apache-2.0
// Convolution as matrix products on all tiers: a task gathers what the kernel sees from some
// places, a part of its depth at a time, and multiplies that by the weights as matmul packs them.
#include "csrc/cpu/convolution.h"

#include "csrc/cpu/epilogue.h"
#include "csrc/cpu/panels.h"

namespace rtfm::cpu::RTFM_TIER {

// Of one task: what its places see and their sums lie in the first two levels of cache.
constexpr int64_t kDepth = 128, kColumns = 128;

#ifdef __AMX_TILE__

constexpr int64_t kStrip = 32, kPanel = 32;

RTFM_INLINE int64_t panel_at(int64_t panel, int64_t k, int64_t depth) {
  return (panel * (round_up(depth, 32) / 32) + k / 32) * 2 * kTile;
}

// sums[places, kPanel] (+)= seen[places, depth] · w[depth, kPanel]
RTFM_INLINE void add_products(const Operand* seen, int64_t places, const Operand* w, int64_t depth,
                              float* sums, bool more) {
  for (int64_t m = 0; m < places; m += kStrip) {
    const Operand* a = seen + m * kDepth;
    if (more)
      load_accumulators(sums + m * kColumns, kColumns);
    else
      clear_accumulators();
    for (int64_t i = 0; i < depth; i += 32)
      multiply_tiles(a + i, a + 16 * kDepth + i, kDepth * 2, w + i / 16 * kTile,
                     w + (i / 16 + 1) * kTile);
    store_accumulators(sums + m * kColumns, kColumns);
  }
}

#else

constexpr int64_t kStrip = MR, kPanel = NR;

struct Tiles {};  // only AMX has some

RTFM_INLINE int64_t panel_at(int64_t panel, int64_t k, int64_t depth) {
  return (panel * words_of(depth) * kWord + k) * NR;
}

RTFM_INLINE void add_products(const Operand* seen, int64_t places, const Operand* w, int64_t depth,
                              float* sums, bool more) {
  const auto words = [](const Operand* at) { return reinterpret_cast<const float*>(at); };
  for (int64_t m = 0; m < places; m += kStrip)
    multiply(least(kStrip, places - m), Rows{words(seen + m * kDepth), kDepth / kWord},
             Panel{words(w)}, words_of(depth), sums + m * kColumns, kColumns, more);
}

#endif

constexpr int64_t kPlaces = 64 / kStrip * kStrip;

struct Places {  // of one task; the upper left corner that each sees, in the zoomed input
  int64_t count;
  int32_t row[kPlaces], col[kPlaces];
};

RTFM_INLINE Places places_from(const ConvolutionArgs& a, int64_t first) {
  const int64_t cols = a.cols();
  Places p;
  p.count = least(kPlaces, a.rows() * cols - first);
  for (int64_t i = 0; i < p.count; ++i) {
    p.row[i] = int32_t((first + i) / cols * a.stride - a.padding);
    p.col[i] = int32_t((first + i) % cols * a.stride - a.padding);
  }
  return p;
}

// What all places see under one tap of the kernel: `count` channels of `from`, to rows of kDepth.
static void gather_tap(const ConvolutionArgs& a, const Places& places, int32_t down, int32_t right,
                       const Operand* from, int64_t from_stride, int64_t count, Operand* to) {
  const uint32_t zoom = uint32_t(a.zoom), height = uint32_t(a.height) * zoom;
  const uint32_t width = uint32_t(a.width) * zoom;
  for (int64_t i = 0; i < places.count; ++i, to += kDepth) {
    uint32_t row = uint32_t(places.row[i] + down), col = uint32_t(places.col[i] + right);
    if (!from || row >= height || col >= width) {  // also those before the first
      std::memset(to, 0, size_t(count) * sizeof(Operand));
      continue;
    }
    if (zoom > 1) row /= zoom, col /= zoom;
    std::memcpy(to, from + (row * a.width + col) * from_stride, size_t(count) * sizeof(Operand));
  }
}

// Columns k .. k + depth of the matrix that the weights multiply.
static void gather_columns(const ConvolutionArgs& a, const Places& places, int64_t k, int64_t depth,
                           Operand* seen) {
  const int64_t channels = a.channels + a.past_channels;
  for (int64_t i = 0; i < depth;) {
    const int64_t tap = (k + i) / channels, channel = (k + i) % channels;
    const bool past = channel >= a.channels;
    const int64_t count = least((past ? channels : a.channels) - channel, depth - i);
    const Operand* from = static_cast<const Operand*>(past ? a.past : a.x);
    if (from) from += past ? channel - a.channels : channel;
    gather_tap(a, places, int32_t(tap / a.side), int32_t(tap % a.side), from,
               past ? a.past_stride : a.x_stride, count, seen + i);
    i += count;
  }
#ifdef RTFM_BF16
  for (int64_t i = 0; i < places.count; ++i)  // tiles and pairs are read to their end
    std::memset(seen + i * kDepth + depth, 0, size_t(round_up(depth, 32) - depth) * 2);
#endif
}

int64_t kernel_bytes(int64_t n, int64_t k) { return panel_bytes(n, k); }
void pack_kernel(const float* w, int64_t n, int64_t k, void* packed) {
  pack_panels(w, n, k, static_cast<Operand*>(packed));
}

int64_t convolution_tasks(const ConvolutionArgs& a, int) {
  return round_up(a.rows() * a.cols(), kPlaces) / kPlaces * (round_up(a.n, kColumns) / kColumns);
}

void convolution(const ConvolutionArgs& a, int64_t task, int64_t) {
  [[maybe_unused]] const Tiles tiles;
  const int64_t blocks = round_up(a.n, kColumns) / kColumns, first = task / blocks * kPlaces;
  const int64_t col = task % blocks * kColumns, cols = least(kColumns, a.n - col);
  const int64_t depth = a.side * a.side * (a.channels + a.past_channels);
  const Operand* w = static_cast<const Operand*>(a.w);
  const Places places = places_from(a, first);
  alignas(64) Operand seen[kPlaces * kDepth];
  alignas(64) float sums[kPlaces * kColumns];
  for (int64_t k = 0; k < depth; k += kDepth) {
    const int64_t part = least(kDepth, depth - k);
    gather_columns(a, places, k, part, seen);
    for (int64_t p = 0; p < cols; p += kPanel)
      add_products(seen, places.count, w + panel_at((col + p) / kPanel, k, depth), part, sums + p,
                   k > 0);
  }
  MatmulArgs out{};
  out.bias = a.bias, out.y = a.y, out.y_stride = a.y_stride, out.n = a.n;
  out.residual = a.residual, out.residual_stride = a.residual_stride, out.epilogue = a.epilogue;
  apply_epilogue(out, sums, kColumns, first, places.count, col, cols);
}

}  // namespace rtfm::cpu::RTFM_TIER
