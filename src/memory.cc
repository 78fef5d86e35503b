// SPDX-License-Identifier: Apache-2.0
#include "src/memory.h"

#include <algorithm>
#include <cstring>

#include "src/check.h"

namespace rtfm {
namespace {

constexpr int64_t kMostFrames = int64_t{1} << 20;  // what the index is measured for
constexpr int kSpares = 4;                         // frames planned beyond the context

Retrieval with_spares(Retrieval r, int64_t pages) {
  r.context = int(std::min<int64_t>({r.context + kSpares, kMaxContext, pages - 1}));
  return r;
}

Blocks::Allocate on(const std::shared_ptr<Backend>& backend) {
  return [backend](int64_t bytes) {
    const auto buffer = std::make_shared<Buffer>(backend, bytes);
    return std::shared_ptr<std::byte>(buffer, buffer->data());
  };
}

}  // namespace

Memory::Capacity Memory::capacity(const Retrieval& retrieval, int64_t page_bytes,
                                  int64_t image_bytes, int64_t budget) {
  const int64_t least = retrieval.context + 1, together = page_bytes + image_bytes;
  check<ArgumentError>(budget >= least * together, "memory_budget: expected at least ",
                       least * together, " bytes (a context and a new frame, ", least,
                       " frames of ", together, "), got ", budget);
  const int64_t beside_pages = (budget - least * page_bytes) / image_bytes;
  const int64_t quarter = budget / 4 / image_bytes;
  const int64_t frames =
      std::min({std::max(quarter, budget / together), beside_pages, kMostFrames});
  const int64_t pages = std::min((budget - frames * image_bytes) / page_bytes, kMostFrames);
  return {frames, pages};
}

Memory::Memory(const std::shared_ptr<Backend>& backend, const Retrieval& retrieval,
               int64_t page_bytes, int64_t state_bytes, int64_t image_bytes, int64_t budget)
    : Memory(backend, retrieval, page_bytes, state_bytes, image_bytes,
             capacity(retrieval, page_bytes, image_bytes, budget)) {}

Memory::Memory(const std::shared_ptr<Backend>& backend, const Retrieval& retrieval,
               int64_t page_bytes, int64_t state_bytes, int64_t image_bytes,
               const Capacity& capacity)
    : page_bytes_(page_bytes),
      state_bytes_(state_bytes),
      image_bytes_(image_bytes),
      least_(retrieval.context + 1),
      frames_(with_spares(retrieval, capacity.pages), capacity.frames),
      pool_(capacity.pages, capacity.frames),
      pages_(capacity.pages + 1, page_bytes, on(backend)),
      states_(state_bytes ? 2 : 0, state_bytes, on(backend)),
      images_((capacity.frames + kImages - 1) / kImages, kImages * image_bytes, Blocks::host) {}

// What capacity() makes so many of.
int64_t Memory::budget_for(int64_t frames) const {
  const int64_t together = page_bytes_ + image_bytes_, pixels = frames * image_bytes_;
  return std::max(
      {std::min(4 * pixels, frames * together), pixels + least_ * page_bytes_, least_ * together});
}

int32_t Memory::insert(int64_t id, const View& view, const uint8_t* image) {
  const int32_t slot = frames_.insert(id, view);
  pool_.release(slot);  // of a frame that was forgotten to make room
  std::byte* images = images_.write(slot / kImages);
  std::memcpy(images + slot % kImages * image_bytes_, image, size_t(image_bytes_));
  return slot;
}

}  // namespace rtfm
