// SPDX-License-Identifier: Apache-2.0
// What the frame cache keeps by slot, 0 .. capacity - 1.
#pragma once

#include <cstdint>
#include <memory>

namespace rtfm {

// Something for each slot, in memory that is reserved at once and only touched as slots are used.
template <class T>
using Slots = std::unique_ptr<T[]>;

template <class T>
Slots<T> slots(int64_t capacity) {
  return std::make_unique_for_overwrite<T[]>(capacity);
}

// Doubly linked lists of slots, each slot in one list at most: O(1) to move one.
class SlotLists {
 public:
  SlotLists(int64_t capacity, int lists) : capacity_(static_cast<int32_t>(capacity)) {
    links_ = slots<Links>(capacity + lists);
    for (int i = 0; i < lists; ++i) links_[end(i)] = {end(i), end(i)};
  }

  // A list is a ring closed by its end, so first(list) of an empty one is end(list).
  int32_t end(int list) const { return capacity_ + list; }
  int32_t first(int list) const { return links_[end(list)].next; }
  int32_t next(int32_t slot) const { return links_[slot].next; }
  int32_t previous(int32_t slot) const { return links_[slot].previous; }

  void append(int list, int32_t slot) {
    const int32_t last = previous(end(list));
    links_[slot] = {last, end(list)};
    links_[last].next = links_[end(list)].previous = slot;
  }

  void remove(int32_t slot) {
    links_[previous(slot)].next = next(slot);
    links_[next(slot)].previous = previous(slot);
  }

 private:
  struct Links {
    int32_t previous, next;
  };

  int32_t capacity_;
  Slots<Links> links_;
};

}  // namespace rtfm
