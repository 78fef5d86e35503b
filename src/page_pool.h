// SPDX-License-Identifier: Apache-2.0
// Which remembered frames have their page at hand. Pages are many times larger than pixels, so a
// session keeps the pixels of all frames and the pages of those used last. Host only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rtfm {

// Least recently used out first. All memory is taken at construction; deterministic.
class PagePool {
 public:
  PagePool(int64_t pages, int64_t frames) : page_of_(frames, -1), owner_(pages, -1), used_(pages) {}

  int32_t find(int32_t frame) const { return page_of_[frame]; }  // its page, or -1
  int64_t resident() const { return resident_; }
  int64_t pages() const { return int64_t(owner_.size()); }

  // The frame's page, now the most recently used. It must have one.
  int32_t use(int32_t frame);

  // A page for a frame that has none: a free one, or that of the frame used longest ago, which is
  // none of `keep`. There must be more pages than frames to keep.
  int32_t assign(int32_t frame, std::span<const int32_t> keep);

  void release(int32_t frame);  // its page, if it has one, is free

  std::vector<int32_t> by_use() const;  // the frames that have a page, least recently used first

 private:
  std::vector<int32_t> page_of_;  // [frames] page, or -1
  std::vector<int32_t> owner_;    // [pages] frame, or -1
  std::vector<int64_t> used_;     // [pages] clock_ at the last use
  int64_t clock_ = 0, resident_ = 0;
};

}  // namespace rtfm
