// SPDX-License-Identifier: Apache-2.0
#include "src/page_pool.h"

#include <algorithm>

namespace rtfm {

int32_t PagePool::use(int32_t frame) {
  const int32_t page = find(frame);
  lists_.remove(page);
  lists_.append(kUsed, page);
  return page;
}

int32_t PagePool::assign(int32_t frame, std::span<const int32_t> keep) {
  const auto kept = [&](int32_t page) {
    return std::find(keep.begin(), keep.end(), owner_[page]) != keep.end();
  };
  int32_t page = fresh_;
  if (fresh_ < pages_) {
    ++fresh_;
  } else {
    if (lists_.first(kFree) == lists_.end(kFree)) {
      int32_t oldest = lists_.first(kUsed);
      while (kept(oldest)) oldest = lists_.next(oldest);
      release(owner_[oldest]);
    }
    page = lists_.first(kFree);
    lists_.remove(page);
  }
  lists_.append(kUsed, page);
  owner_.write(page) = frame;
  page_of_.write(frame) = page + 1;
  ++resident_;
  return page;
}

void PagePool::release(int32_t frame) {
  const int32_t page = find(frame);
  if (page < 0) return;
  lists_.remove(page);
  lists_.append(kFree, page);
  page_of_.write(frame) = 0;
  --resident_;
}

std::vector<int32_t> PagePool::by_use() const {
  std::vector<int32_t> frames;
  for (int32_t p = lists_.first(kUsed); p != lists_.end(kUsed); p = lists_.next(p))
    frames.push_back(owner_[p]);
  return frames;
}

}  // namespace rtfm
