// SPDX-License-Identifier: Apache-2.0
// Doubly linked lists of what a frame cache keeps by slot, 0 .. capacity - 1.
#pragma once

#include <cstdint>

#include "src/blocks.h"

namespace rtfm {

// Each slot is in one list at most: O(1) to move one.
class SlotLists {
 public:
  SlotLists(int64_t capacity, int lists)
      : capacity_(static_cast<int32_t>(capacity)), links_(capacity + lists) {
    for (int i = 0; i < lists; ++i) links_.write(end(i)) = {end(i), end(i)};
  }

  // A list is a ring closed by its end, so first(list) of an empty one is end(list).
  int32_t end(int list) const { return capacity_ + list; }
  int32_t first(int list) const { return links_[end(list)].next; }
  int32_t next(int32_t slot) const { return links_[slot].next; }
  int32_t previous(int32_t slot) const { return links_[slot].previous; }

  void append(int list, int32_t slot) {
    const int32_t last = previous(end(list));
    links_.write(slot) = {last, end(list)};
    links_.write(last).next = slot;
    links_.write(end(list)).previous = slot;
  }

  void remove(int32_t slot) {
    const Links around = links_[slot];
    links_.write(around.previous).next = around.next;
    links_.write(around.next).previous = around.previous;
  }

 private:
  struct Links {
    int32_t previous, next;
  };

  int32_t capacity_;
  CowArray<Links> links_;
};

}  // namespace rtfm
