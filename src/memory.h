// SPDX-License-Identifier: Apache-2.0
// What a session remembers, in two tiers within one budget: the view and pixels of every frame, and
// the pages of those used last. A page that is not at hand is encoded again from the pixels.
#pragma once

#include <cstdlib>
#include <memory>
#include <span>

#include "src/frame_cache.h"
#include "src/page_pool.h"
#include "src/tensor.h"

namespace rtfm {

// One thread at a time. Everything is allocated at construction; what is not used yet costs address
// space only.
class Memory {
 public:
  // budget: bytes for pixels and pages together; a quarter goes to pixels where they are the
  // smaller part. Throws ArgumentError if a context and one new frame do not fit.
  Memory(const std::shared_ptr<Backend>& backend, const Retrieval& retrieval, int64_t page_bytes,
         int64_t image_bytes, int64_t budget);

  // Plans name more frames than `context`, in order of choice: spares for pages not at hand.
  FrameCache& frames() { return frames_; }
  const FrameCache& frames() const { return frames_; }

  // A new frame with its pixels [image_bytes]; returns its slot. It has no page yet.
  int32_t insert(int64_t id, const View& view, const uint8_t* image);

  const uint8_t* image(int32_t slot) const { return images_.get() + slot * image_bytes_; }
  bool has_page(int32_t slot) const { return pool_.find(slot) >= 0; }
  std::byte* use_page(int32_t slot) { return page(pool_.use(slot)); }    // it must have one
  std::byte* peek_page(int32_t slot) { return page(pool_.find(slot)); }  // the same, not as a use
  // Room for the page of a frame that has none, taken from a frame that is none of `keep`.
  std::byte* assign_page(int32_t slot, std::span<const int32_t> keep);
  std::byte* scratch_page() { return page(int32_t(pool_.pages())); }  // belongs to no frame

  std::vector<int32_t> pages_by_use() const { return pool_.by_use(); }  // slots, oldest use first

  int64_t resident() const { return pool_.resident(); }  // frames with a page at hand
  int64_t bytes() const { return resident() * page_bytes_ + frames_.size() * image_bytes_; }

 private:
  struct Capacity {
    int64_t frames, pages;
  };
  static Capacity capacity(const Retrieval& retrieval, int64_t page_bytes, int64_t image_bytes,
                           int64_t budget);
  Memory(const std::shared_ptr<Backend>& backend, const Retrieval& retrieval, int64_t page_bytes,
         int64_t image_bytes, const Capacity& capacity);
  std::byte* page(int32_t index) const { return pages_.data() + index * page_bytes_; }

  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  int64_t page_bytes_, image_bytes_;
  FrameCache frames_;
  PagePool pool_;
  Buffer pages_;                             // [pages + 1] pages; the last is scratch
  std::unique_ptr<uint8_t[], Free> images_;  // [frames] of image_bytes
};

}  // namespace rtfm
