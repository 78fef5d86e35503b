// SPDX-License-Identifier: Apache-2.0
#include "csrc/cuda/plan.h"

#include <algorithm>

namespace rtfm::cuda {
namespace {

// Costs count the time that one multiprocessor takes for one step of its largest tile, some 0.4 us
// on an H100. They are estimates from data sheets; none was measured.
constexpr double kStart = 3;         // to fill the pipeline, to write the tile
constexpr double kSmallTile = 0.75;  // operand traffic of a step, for tiles that reuse less of it
constexpr double kReduce = 2;        // to wait for the last split of a tile
constexpr double kReadBack = 1.6;    // to take in one split of a largest tile
constexpr double kReadRows = 0.8;    // the same of a block of queries, whose steps are longer

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One tile's splits run in turns of one tile for each multiprocessor.
double matmul_cost(const Tile& t, int64_t tiles, int64_t steps, int splits, int sms) {
  const double area = t.rows * t.cols / (128.0 * 128);
  const double step = std::max(area, kSmallTile * (t.rows + t.cols) / 256.0) * t.depth / 64;
  const double turns = double(ceil_div(tiles * splits, sms));
  const double reduce = splits > 1 ? kReduce + kReadBack * area * splits : 0;
  return turns * (double(ceil_div(steps, splits)) * step + kStart) + reduce;
}

}  // namespace

MatmulPlan plan_matmul(const Tile* tiles, int count, int64_t rows, int64_t n, int64_t k, int sms) {
  MatmulPlan best{0, 1};
  double least = 1e300;
  for (int i = 0; i < count; ++i) {
    const int64_t number = ceil_div(rows, tiles[i].rows) * ceil_div(n, tiles[i].cols);
    const int64_t steps = ceil_div(k, tiles[i].depth);
    const int most = number > kMaxSplitTiles ? 1 : int(std::min<int64_t>(kMaxSplits, steps));
    for (int splits = 1; splits <= most; ++splits) {
      const double cost = matmul_cost(tiles[i], number, steps, splits, sms);
      if (cost < least) {
        least = cost;
        best = {i, splits};
      }
    }
  }
  return best;
}

int plan_attention(int64_t blocks, int64_t steps, int64_t at_once) {
  int best = 1;
  double least = 1e300;
  const int most = blocks > kMaxSplitTiles ? 1 : int(std::min<int64_t>(kMaxSplits, steps));
  for (int splits = 1; splits <= most; ++splits) {
    const double turns = double(ceil_div(blocks * splits, at_once));
    const double reduce = splits > 1 ? kReduce + kReadRows * splits : 0;
    const double cost = turns * (double(ceil_div(steps, splits)) + kStart) + reduce;
    if (cost < least) {
      least = cost;
      best = splits;
    }
  }
  return best;
}

}  // namespace rtfm::cuda
