// SPDX-License-Identifier: Apache-2.0
// Which remembered frames have their page at hand. Pages are many times larger than pixels, so a
// session keeps the pixels of all frames and the pages of those used last. Host only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/blocks.h"
#include "src/slot_lists.h"

namespace rtfm {

// Least recently used out first, in O(1). All memory is taken at construction; deterministic.
class PagePool {
 public:
  PagePool(int64_t pages, int64_t frames)
      : pages_(pages), page_of_(frames), owner_(pages), lists_(pages, 2) {}

  int32_t find(int32_t frame) const { return page_of_[frame] - 1; }  // its page, or -1
  int64_t resident() const { return resident_; }
  int64_t pages() const { return pages_; }

  // The frame's page, now the most recently used. It must have one.
  int32_t use(int32_t frame);

  // A page for a frame that has none: a free one, or that of the frame used longest ago, which is
  // none of `keep`. There must be more pages than frames to keep.
  int32_t assign(int32_t frame, std::span<const int32_t> keep);

  void release(int32_t frame);  // its page, if it has one, is free

  std::vector<int32_t> by_use() const;  // the frames that have a page, least recently used first

 private:
  enum List { kUsed = 0, kFree = 1 };  // of lists_; used: the least recently first

  int64_t pages_, resident_ = 0;
  int32_t fresh_ = 0;          // pages from here on were never used and are in no list
  CowArray<int32_t> page_of_;  // [frames] page + 1, or 0
  CowArray<int32_t> owner_;    // [pages] frame
  SlotLists lists_;            // of pages
};

}  // namespace rtfm
