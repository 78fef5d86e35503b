// SPDX-License-Identifier: Apache-2.0
#include "src/pixels.h"

#include <utility>

namespace rtfm {

Pixels::Pixels(std::shared_ptr<Backend> backend, int64_t bytes, uint64_t stream)
    : backend_(std::move(backend)),
      device_(backend_, bytes),
      stream_(stream),
      host_(size_t(bytes)) {}

void Pixels::take(Backend& maker, const void* images) {
  if (!on_device()) return maker.download(host_.data(), images, int64_t(size()));
  const std::lock_guard lock(mutex_);
  fetched_ = false;
  maker.follow(stream_);
  maker.copy(device_.data(), images, int64_t(size()));
  maker.finish();
}

uint8_t* Pixels::fill() {
  fetched_ = true;
  return host_.data();
}

uint8_t* Pixels::data() {
  const std::lock_guard lock(mutex_);
  if (!fetched_) backend_->fetch(host_.data(), device_.data(), int64_t(size()));
  fetched_ = true;
  return host_.data();
}

}  // namespace rtfm
