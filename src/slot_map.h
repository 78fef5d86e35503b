// SPDX-License-Identifier: Apache-2.0
// A hash map from 64-bit keys to slots that never grows, so no insertion is slower than another.
#pragma once

#include <bit>
#include <cstdint>
#include <random>
#include <vector>

namespace rtfm {

// Linear probing, at most two thirds full. The salt keeps a chooser of keys from making long runs;
// it moves entries and changes no answer.
class SlotMap {
 public:
  explicit SlotMap(int64_t capacity) {
    std::random_device device;
    salt_ = uint64_t{device()} << 32 | device();
    entries_.resize(std::bit_ceil(static_cast<uint64_t>(capacity) * 3 / 2 + 1), {0, kNone});
  }

  static constexpr int32_t kNone = -1;

  int32_t find(uint64_t key) const { return entries_[place_of(key)].slot; }
  void prefetch(uint64_t key) const { __builtin_prefetch(&entries_[home_of(key)]); }
  void set(uint64_t key, int32_t slot) { entries_[place_of(key)] = {key, slot}; }

  // Moves later entries of the run back, so that there are no tombstones to skip.
  void erase(uint64_t key) {
    uint64_t hole = place_of(key);
    if (entries_[hole].slot == kNone) return;
    for (uint64_t i = after(hole); entries_[i].slot != kNone; i = after(i)) {
      const uint64_t way = (i - home_of(entries_[i].key)) & mask();
      if (way < ((i - hole) & mask())) continue;  // its home lies behind the hole
      entries_[hole] = entries_[i];
      hole = i;
    }
    entries_[hole].slot = kNone;
  }

 private:
  struct Entry {
    uint64_t key;
    int32_t slot;
  };

  uint64_t mask() const { return entries_.size() - 1; }
  uint64_t after(uint64_t i) const { return (i + 1) & mask(); }

  uint64_t home_of(uint64_t key) const {
    uint64_t h = (key ^ salt_) * 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 32) ^ (salt_ >> 7)) * 0xbf58476d1ce4e5b9u;
    return (h ^ (h >> 29)) & mask();
  }

  // Where the key is, or the empty entry where it belongs.
  uint64_t place_of(uint64_t key) const {
    uint64_t i = home_of(key);
    while (entries_[i].slot != kNone && entries_[i].key != key) i = after(i);
    return i;
  }

  uint64_t salt_;
  std::vector<Entry> entries_;
};

}  // namespace rtfm
