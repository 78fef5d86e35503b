// SPDX-License-Identifier: Apache-2.0
// Finds the few remembered frusta that may share space with a view, in a time that depends neither
// on how many there are nor on how densely they stand.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "src/blocks.h"
#include "src/pose.h"
#include "src/slot_map.h"

namespace rtfm {

struct Place {  // a frustum, for the index
  Vec3 centroid;
  std::array<float, 3> direction;
  int breadth;  // log2 of the solid angle: a frame does not hide one that sees twice as much
};

// Three hash grids over frustum centroids, with cells of 0.15, 0.35 and 0.7 far. A cell shows at
// most ten frames: different ones, as many for each direction as there is room for. A newcomer
// takes the place of its double or, in a full cell, of a frame like it, which then stands in line
// behind it and is shown again when it leaves. Fixed capacity, all memory taken at construction
// (about 400 bytes a frame, mostly untouched until used), every call O(1). Answers do not depend
// on the salt of the hash, which differs by index.
class PoseIndex {
 public:
  static constexpr int kLevels = 3, kBins = 20, kCells = 27, kCellRecords = 10;
  static constexpr int kMostFound = 2 * kCells * kCellRecords;  // candidates of one question

  PoseIndex(double far, int64_t capacity);

  // The frames that came to be shown or hidden elsewhere, by level; -1: none.
  using Changed = std::array<int32_t, kLevels>;
  Changed insert(int32_t frame, const Place& place);
  Changed erase(int32_t frame);
  bool shown(int32_t frame) const;  // in any level

  // The shown frames nearest to the query, at most frames.size(), in an order that only depends on
  // their places; how many. kClose: what stands around the query, densely. kWide: farther, fewer.
  // A frame that two levels show may come twice.
  enum Reach { kClose, kWide };
  int find(const Place& query, Reach reach, std::span<int32_t> frames) const;

 private:
  struct Record {  // a shown frame
    int32_t frame;
    std::array<uint8_t, 3> offset;  // of the centroid in its cell, in 1/256 of the side
    uint8_t bin;
    std::array<int8_t, 3> direction;  // in 1/127
    int8_t breadth;
  };
  static constexpr int kRecords = 5;
  struct alignas(64) Block {  // of a cell; only its first one may have free records
    Record records[kRecords];
    int32_t next;
  };
  struct Line {  // neighbours in the line of a bin; no previous: shown
    int32_t previous, next;
  };
  struct Level {
    double side;
    SlotMap cells;           // key of a cell -> its first block
    CowArray<Block> blocks;  // [capacity]: enough, for each has a record and a frame at most one
    CowArray<Line> lines;    // [capacity], by frame
    int32_t used;            // blocks
    int32_t free;            // ... and those given back, linked by next
  };
  struct Visit;
  struct Spot {  // of a record
    int32_t block = -1;
    int record = 0;
  };

  uint8_t bin_of(const std::array<float, 3>& direction) const;
  Record record_of(const Level& level, int32_t frame) const;
  static float difference(const Record& a, const Record& b);
  static Spot rival(const Level& level, int32_t first, const Record& newcomer);
  static Record& at(Level& level, const Spot& spot) {
    return level.blocks.write(spot.block).records[spot.record];
  }
  int32_t insert(Level& level, int32_t frame);
  int32_t erase(Level& level, int32_t frame);
  static void reach_for(const Level& level, const Vec3& centroid, uint64_t* keys);
  int visits(const Level& level, const Vec3& centroid, const uint64_t* keys, Visit* visits) const;

  double far_;
  std::array<std::array<float, 3>, kBins> bins_;  // unit vectors
  std::vector<Level> levels_;
  CowArray<Place> places_;  // [capacity], by frame
};

}  // namespace rtfm
