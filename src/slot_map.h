// SPDX-License-Identifier: Apache-2.0
// A hash map from 64-bit keys to slots that never grows, so no insertion is slower than another.
#pragma once

#include <bit>
#include <cstdint>
#include <random>

#include "src/blocks.h"

namespace rtfm {

// Linear probing, at most two thirds full. The salt keeps a chooser of keys from making long runs;
// it moves entries and changes no answer.
class SlotMap {
 public:
  explicit SlotMap(int64_t capacity)
      : mask_(std::bit_ceil(static_cast<uint64_t>(capacity) * 3 / 2 + 1) - 1),
        entries_(static_cast<int64_t>(mask_ + 1),
                 Blocks::touched) {  // read all over from the start
    std::random_device device;
    salt_ = uint64_t{device()} << 32 | device();
  }

  static constexpr int32_t kNone = -1;

  int32_t find(uint64_t key) const { return entries_[place_of(key)].after - 1; }
  void prefetch(uint64_t key) const { __builtin_prefetch(&entries_[home_of(key)]); }
  void set(uint64_t key, int32_t slot) { entries_.write(place_of(key)) = {key, slot + 1}; }

  // Moves later entries of the run back, so that there are no tombstones to skip.
  void erase(uint64_t key) {
    uint64_t hole = place_of(key);
    if (empty(hole)) return;
    for (uint64_t i = next(hole); !empty(i); i = next(i)) {
      const Entry entry = entries_[i];
      const uint64_t way = (i - home_of(entry.key)) & mask_;
      if (way < ((i - hole) & mask_)) continue;  // its home lies behind the hole
      entries_.write(hole) = entry;
      hole = i;
    }
    entries_.write(hole).after = 0;
  }

 private:
  struct Entry {
    uint64_t key;
    int32_t after;  // slot + 1; 0: empty
  };

  bool empty(uint64_t i) const { return entries_[i].after == 0; }
  uint64_t next(uint64_t i) const { return (i + 1) & mask_; }

  // Four keys that differ in their last two bits share a cache line: neighbours are found together.
  uint64_t home_of(uint64_t key) const {
    uint64_t h = (key / 4 ^ salt_) * 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 32) ^ (salt_ >> 7)) * 0xbf58476d1ce4e5b9u;
    return ((h ^ (h >> 29)) * 4 + key % 4) & mask_;
  }

  // Where the key is, or the empty entry where it belongs.
  uint64_t place_of(uint64_t key) const {
    uint64_t i = home_of(key);
    while (!empty(i) && entries_[i].key != key) i = next(i);
    return i;
  }

  uint64_t mask_, salt_;
  CowArray<Entry> entries_;
};

}  // namespace rtfm
