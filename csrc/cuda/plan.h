// SPDX-License-Identifier: Apache-2.0
// Which tile and how many splits suit a shape on a device. Plain host code: no CUDA here.
#pragma once

#include <cstdint>

namespace rtfm::cuda {

constexpr int kMaxSplits = 16;
constexpr int64_t kMaxSplitTiles = 4096;  // tiles of one launch whose work is split

// The product of one tile: `rows` of x and `cols` of w, k in steps of `depth`.
struct Tile {
  int rows, cols, depth;
};

struct MatmulPlan {
  int tile;    // index
  int splits;  // of k
};

// The cheapest of `count` tiles for r[rows, n] over k on `sms` multiprocessors.
MatmulPlan plan_matmul(const Tile* tiles, int count, int64_t rows, int64_t n, int64_t k, int sms);

// How many splits of `steps` key tiles suit `blocks` blocks of queries when `at_once` can run.
int plan_attention(int64_t blocks, int64_t steps, int64_t at_once);

}  // namespace rtfm::cuda
