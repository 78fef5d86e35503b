// SPDX-License-Identifier: Apache-2.0
// What a session remembers, in two tiers within one budget: the view and pixels of every frame, and
// the pages of those used last. A page that is not at hand is encoded again from the pixels. And
// the state that the newest frame left, of families that have one.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "src/blocks.h"
#include "src/frame_cache.h"
#include "src/page_pool.h"
#include "src/tensor.h"

namespace rtfm {

// One thread at a time. Everything is allocated at construction; what is not used yet costs address
// space only. A fork shares frames, pixels and pages until one of the two changes them: no page is
// copied, and each side may fill a budget of its own.
class Memory {
 public:
  // budget: bytes for pixels and pages together; a quarter goes to pixels where they are the
  // smaller part. Throws ArgumentError if a context and one new frame do not fit.
  Memory(const std::shared_ptr<Backend>& backend, const Retrieval& retrieval, int64_t page_bytes,
         int64_t state_bytes, int64_t image_bytes, int64_t budget);

  // Plans name more frames than `context`, in order of choice: spares for pages not at hand.
  FrameCache& frames() { return frames_; }
  const FrameCache& frames() const { return frames_; }

  // Bytes that would have room for the pixels of so many frames.
  int64_t budget_for(int64_t frames) const;

  // A new frame with its pixels [image_bytes]; returns its slot. It has no page yet.
  int32_t insert(int64_t id, const View& view, const uint8_t* image);

  const uint8_t* image(int32_t slot) const {
    return reinterpret_cast<const uint8_t*>(images_[slot / kImages]) +
           slot % kImages * image_bytes_;
  }
  bool has_page(int32_t slot) const { return pool_.find(slot) >= 0; }
  const std::byte* use_page(int32_t slot) { return pages_[pool_.use(slot)]; }  // it must have one
  const std::byte* peek_page(int32_t slot) const { return pages_[pool_.find(slot)]; }  // not a use
  // Room for the page of a frame that has none, taken from a frame that is none of `keep`.
  std::byte* assign_page(int32_t slot, std::span<const int32_t> keep) {
    return pages_.replace(pool_.assign(slot, keep));
  }
  // The page of a frame that has one, with what `copy` brings of it where a fork shares it.
  std::byte* rewrite_page(int32_t slot, const Blocks::Copy& copy) {
    return pages_.write(pool_.use(slot), copy);
  }
  void drop_page(int32_t slot) { pool_.release(slot); }
  std::byte* scratch_page() { return pages_.replace(pool_.pages()); }  // belongs to no frame

  // Null before the first frame, and in families without.
  const std::byte* state() const { return state_ < 0 ? nullptr : states_[state_]; }
  // Room for the next one, which is the state from advance_state() on; null in families without.
  std::byte* next_state() { return state_bytes_ ? states_.replace(other_state()) : nullptr; }
  void advance_state() {
    if (state_bytes_) state_ = other_state();
  }

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
         int64_t state_bytes, int64_t image_bytes, const Capacity& capacity);
  static constexpr int32_t kImages = 16;  // in a block
  int other_state() const { return state_ == 0 ? 1 : 0; }

  int64_t page_bytes_, state_bytes_, image_bytes_;
  int64_t least_;  // pages: of a context and a new frame
  FrameCache frames_;
  PagePool pool_;
  Blocks pages_;   // [pages + 1] pages on the device; the last is scratch
  Blocks states_;  // this one and the next one, on the device
  int state_ = -1;
  Blocks images_;  // [frames / kImages] of kImages images
};

}  // namespace rtfm
