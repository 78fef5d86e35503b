// SPDX-License-Identifier: Apache-2.0
#include "src/pose_index.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "src/frustum.h"

namespace rtfm {
namespace {

constexpr int32_t kNone = SlotMap::kNone;
constexpr double kSides[PoseIndex::kLevels] = {0.15, 0.35, 0.7};  // in units of far

constexpr float kDouble = 0.015f;  // difference of two frames that see the same

using Cell = std::array<int64_t, 3>;

Cell cell_of(const Vec3& point, double side) {
  Cell cell;
  for (int i = 0; i < 3; ++i) {
    const double at = std::floor(point[i] / side);
    cell[i] = std::abs(at) < 1e15 ? static_cast<int64_t>(at) : 0;
  }
  return cell;
}

// Cells 2^21 sides apart share a key: their frames share its room, and masks tell them apart.
uint64_t key_of(const Cell& cell) {
  constexpr uint64_t kMask = (1 << 21) - 1;
  return (cell[0] & kMask) << 42 | (cell[1] & kMask) << 21 | (cell[2] & kMask);
}

constexpr int kSteps = 256;
inline int step_of(float distance) {
  return std::min(static_cast<int>(128 * distance), kSteps - 1);
}

// The frames.size() smallest of what was found. The histogram of their steps spares sorting all.
int keep_nearest(std::span<uint64_t> found, const uint16_t* histogram, std::span<int32_t> frames) {
  const int wanted = static_cast<int>(std::min(found.size(), frames.size()));
  int step = 0, nearer = 0;
  while (nearer + histogram[step] < wanted) nearer += histogram[step++];
  int kept = 0, edge = 0;
  for (const uint64_t key : found) {
    const int of_key = step_of(std::bit_cast<float>(static_cast<uint32_t>(key >> 32)));
    if (of_key < step)
      frames[kept++] = static_cast<int32_t>(key);
    else if (of_key == step)
      found[edge++] = key;
  }
  const auto first = found.begin(), last = first + (wanted - kept);
  std::nth_element(first, last, first + edge);
  for (auto key = first; key != last; ++key) frames[kept++] = static_cast<int32_t>(*key);
  return kept;
}

}  // namespace

struct PoseIndex::Visit {
  const CowArray<Block>* blocks;
  int32_t block;
  float unit;                 // of a record's offset, in far
  std::array<int, 3> origin;  // of the cell, from the query's centroid, in such units
};

// In sides of the cell and radians, squared.
float PoseIndex::difference(const Record& a, const Record& b) {
  int shift = 0, turn = 0;
  for (int i = 0; i < 3; ++i) {
    shift += (a.offset[i] - b.offset[i]) * (a.offset[i] - b.offset[i]);
    turn += (a.direction[i] - b.direction[i]) * (a.direction[i] - b.direction[i]);
  }
  return static_cast<float>(shift) / (256 * 256) + static_cast<float>(turn) / (127 * 127);
}

PoseIndex::PoseIndex(double far, int64_t capacity) : far_(far), places_(capacity) {
  for (int i = 0; i < kBins; ++i) {  // a Fibonacci sphere
    const double z = 1 - 2 * (i + 0.5) / kBins, r = std::sqrt(1 - z * z);
    const double turn = i * std::numbers::pi * (3 - std::sqrt(5.0));
    bins_[i] = {static_cast<float>(r * std::cos(turn)), static_cast<float>(r * std::sin(turn)),
                static_cast<float>(z)};
  }
  levels_.reserve(kLevels);
  for (const double side : kSides)
    levels_.push_back({side * far, SlotMap(capacity), CowArray<Block>(capacity, Blocks::touched),
                       CowArray<Line>(capacity), 0, kNone});
}

uint8_t PoseIndex::bin_of(const std::array<float, 3>& d) const {
  int best = 0;
  float most = -2;
  for (int i = 0; i < kBins; ++i) {
    const float cosine = bins_[i][0] * d[0] + bins_[i][1] * d[1] + bins_[i][2] * d[2];
    if (cosine > most) most = cosine, best = i;
  }
  return static_cast<uint8_t>(best);
}

// ---- remembering

PoseIndex::Record PoseIndex::record_of(const Level& level, int32_t frame) const {
  const Place& place = places_[frame];
  Record record{frame, {}, bin_of(place.direction), {}, static_cast<int8_t>(place.breadth)};
  for (int i = 0; i < 3; ++i) {
    const double at = place.centroid[i] / level.side;
    record.offset[i] = static_cast<uint8_t>(std::clamp(256 * (at - std::floor(at)), 0.0, 255.0));
    record.direction[i] = static_cast<int8_t>(std::lrint(127 * place.direction[i]));
  }
  return record;
}

PoseIndex::Changed PoseIndex::insert(int32_t frame, const Place& place) {
  places_.write(frame) = place;
  Changed changed;
  for (int i = 0; i < kLevels; ++i) changed[i] = insert(levels_[i], frame);
  return changed;
}

// The record of a cell that a newcomer takes over: that of its double; in a full cell, the most
// alike of a crowded direction or of its own. None: it gets a record of its own.
PoseIndex::Spot PoseIndex::rival(const Level& level, int32_t first, const Record& newcomer) {
  struct Alike {
    Spot spot;
    float difference = 0;
  };
  std::array<Alike, kBins> nearest;  // by direction
  std::array<int, kBins> crowd{};
  int count = 0;
  for (int32_t b = first; b != kNone; b = level.blocks[b].next)
    for (int i = 0; i < kRecords; ++i) {
      const Record& r = level.blocks[b].records[i];
      if (r.frame == kNone) break;
      const float d = difference(r, newcomer);
      Alike& n = nearest[r.bin];
      if (n.spot.block == kNone || d < n.difference) n = {{b, i}, d};
      ++crowd[r.bin];
      ++count;
    }
  const Alike& own = nearest[newcomer.bin];
  if (own.spot.block != kNone && own.difference < kDouble) return own.spot;
  if (count < kCellRecords) return {};
  const int most = *std::max_element(crowd.begin(), crowd.end());
  if (own.spot.block != kNone && crowd[newcomer.bin] + 1 >= most) return own.spot;
  Alike best;
  for (int i = 0; i < kBins; ++i)
    if (crowd[i] == most && (best.spot.block == kNone || nearest[i].difference < best.difference))
      best = nearest[i];
  return best.spot;
}

int32_t PoseIndex::insert(Level& level, int32_t frame) {
  const uint64_t key = key_of(cell_of(places_[frame].centroid, level.side));
  const Record record = record_of(level, frame);
  const int32_t first = level.cells.find(key);
  CowArray<Line>& lines = level.lines;
  if (const Spot spot = rival(level, first, record); spot.block != kNone) {
    const Record other = level.blocks[spot.block].records[spot.record];
    if (record.breadth < other.breadth) {  // second in line
      const int32_t next = lines[other.frame].next;
      lines.write(frame) = {other.frame, next};
      if (next != kNone) lines.write(next).previous = frame;
      lines.write(other.frame).next = frame;
      return kNone;
    }
    lines.write(frame) = {kNone, other.frame};
    lines.write(other.frame).previous = frame;
    at(level, spot) = record;
    return other.frame;
  }
  lines.write(frame) = {kNone, kNone};
  if (first != kNone)
    for (int i = 0; i < kRecords; ++i)
      if (level.blocks[first].records[i].frame == kNone) {
        at(level, {first, i}) = record;
        return kNone;
      }
  const int32_t fresh = level.free == kNone ? level.used++ : level.free;
  Block& block = level.blocks.write(fresh);
  if (fresh == level.free) level.free = block.next;
  for (Record& free : block.records) free.frame = kNone;
  block.records[0] = record;
  block.next = first;
  level.cells.set(key, fresh);
  return kNone;
}

PoseIndex::Changed PoseIndex::erase(int32_t frame) {
  Changed changed;
  for (int i = 0; i < kLevels; ++i) changed[i] = erase(levels_[i], frame);
  return changed;
}

int32_t PoseIndex::erase(Level& level, int32_t frame) {
  const auto [previous, next] = level.lines[frame];
  if (next != kNone) level.lines.write(next).previous = previous;
  if (previous != kNone) {
    level.lines.write(previous).next = next;
    return kNone;
  }
  const uint64_t key = key_of(cell_of(places_[frame].centroid, level.side));
  const int32_t first = level.cells.find(key);
  Spot hole;
  for (int32_t b = first; b != kNone; b = level.blocks[b].next)
    for (int i = 0; i < kRecords; ++i)
      if (level.blocks[b].records[i].frame == frame) hole = {b, i};
  if (next != kNone) {
    at(level, hole) = record_of(level, next);
    return next;
  }
  Block& block = level.blocks.write(first);
  int last = kRecords - 1;
  while (block.records[last].frame == kNone) --last;
  at(level, hole) = block.records[last];
  block.records[last].frame = kNone;
  if (last > 0) return kNone;
  if (block.next == kNone)
    level.cells.erase(key);
  else
    level.cells.set(key, block.next);
  block.next = level.free;
  level.free = first;
  return kNone;
}

bool PoseIndex::shown(int32_t frame) const {
  return std::any_of(levels_.begin(), levels_.end(),
                     [&](const Level& level) { return level.lines[frame].previous == kNone; });
}

// ---- asking

// The cells around the query, of which it fetches what find() reads next.
void PoseIndex::reach_for(const Level& level, const Vec3& centroid, uint64_t* keys) {
  const Cell centre = cell_of(centroid, level.side);
  for (int i = 0; i < kCells; ++i) {
    keys[i] = key_of({centre[0] + i / 9 - 1, centre[1] + i / 3 % 3 - 1, centre[2] + i % 3 - 1});
    level.cells.prefetch(keys[i]);
  }
}

// The first blocks of those that there are; how many.
int PoseIndex::visits(const Level& level, const Vec3& centroid, const uint64_t* keys,
                      Visit* visits) const {
  int starts[3][3];  // of the cells' sides, by axis and step
  const Cell centre = cell_of(centroid, level.side);
  for (int j = 0; j < 3; ++j)
    for (int step = 0; step < 3; ++step) {
      const double cells = static_cast<double>(centre[j]) + step - 1 - centroid[j] / level.side;
      starts[j][step] = static_cast<int>(256 * std::clamp(cells, -2.0, 2.0));
    }
  const float unit = static_cast<float>(level.side / (256 * far_));
  int count = 0;
  for (int i = 0; i < kCells; ++i) {
    const int32_t block = level.cells.find(keys[i]);
    if (block == kNone) continue;
    __builtin_prefetch(&level.blocks[block]);
    visits[count++] = {
        &level.blocks, block, unit, {starts[0][i / 9], starts[1][i / 3 % 3], starts[2][i % 3]}};
  }
  return count;
}

int PoseIndex::find(const Place& query, Reach reach, std::span<int32_t> frames) const {
  Visit queue[kMostFound / kRecords];  // a cell's other blocks queue up behind the first ones
  uint64_t keys[2][kCells];
  const int first = reach == kClose ? 0 : 2, levels = reach == kClose ? 2 : 1;
  for (int i = 0; i < levels; ++i) reach_for(levels_[first + i], query.centroid, keys[i]);
  int queued = 0;
  for (int i = 0; i < levels; ++i)
    queued += visits(levels_[first + i], query.centroid, keys[i], queue + queued);

  uint64_t found[kMostFound];  // distance in the upper half, frame in the lower
  uint16_t histogram[kSteps] = {};
  int count = 0;
  constexpr int kUnit = 1024;  // of the query's direction
  int facing[3];
  for (int j = 0; j < 3; ++j) facing[j] = static_cast<int>(std::lrint(kUnit * query.direction[j]));
  for (int i = 0; i < queued; ++i) {
    const Visit visit = queue[i];
    const Block& block = (*visit.blocks)[visit.block];
    if (block.next != kNone) {
      __builtin_prefetch(&(*visit.blocks)[block.next]);
      queue[queued] = visit;
      queue[queued++].block = block.next;
    }
    for (const Record& r : block.records) {
      if (r.frame == kNone) break;
      int square = 0, cosine = 0;
      for (int j = 0; j < 3; ++j) {
        const int d = visit.origin[j] + r.offset[j];
        square += d * d;
        cosine += facing[j] * r.direction[j];
      }
      const float turn = std::max(0.0f, 1 - static_cast<float>(cosine) * (1.0f / (127 * kUnit)));
      const float distance = std::sqrt(static_cast<float>(square)) * visit.unit + kTurn * turn;
      found[count++] = uint64_t{std::bit_cast<uint32_t>(distance)} << 32 | r.frame;
      ++histogram[step_of(distance)];
    }
  }
  return keep_nearest({found, found + count}, histogram, frames);
}

}  // namespace rtfm
