// SPDX-License-Identifier: Apache-2.0
#include "src/page_pool.h"

#include <algorithm>

namespace rtfm {

int32_t PagePool::use(int32_t frame) {
  const int32_t page = page_of_[frame];
  used_[page] = ++clock_;
  return page;
}

int32_t PagePool::assign(int32_t frame, std::span<const int32_t> keep) {
  int32_t best = -1;
  for (int32_t page = 0; page < int32_t(owner_.size()); ++page) {
    const int32_t owner = owner_[page];
    if (owner < 0) {
      best = page;
      break;
    }
    const bool kept = std::find(keep.begin(), keep.end(), owner) != keep.end();
    if (!kept && (best < 0 || used_[page] < used_[best])) best = page;
  }
  if (owner_[best] >= 0) release(owner_[best]);
  owner_[best] = frame;
  page_of_[frame] = best;
  ++resident_;
  return use(frame);
}

void PagePool::release(int32_t frame) {
  const int32_t page = page_of_[frame];
  if (page < 0) return;
  owner_[page] = page_of_[frame] = -1;
  --resident_;
}

std::vector<int32_t> PagePool::by_use() const {
  std::vector<int32_t> frames;
  for (int32_t frame : owner_)
    if (frame >= 0) frames.push_back(frame);
  std::sort(frames.begin(), frames.end(),
            [&](int32_t a, int32_t b) { return used_[page_of_[a]] < used_[page_of_[b]]; });
  return frames;
}

}  // namespace rtfm
