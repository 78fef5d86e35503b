// SPDX-License-Identifier: Apache-2.0
#include "src/pixels.h"

#include <cstdlib>
#include <new>
#include <utility>

namespace rtfm {

Pixels::Pixels(int64_t bytes)
    : bytes_(bytes), host_(static_cast<uint8_t*>(std::calloc(size_t(bytes), 1)), std::free) {
  if (!host_) throw std::bad_alloc();
}

Pixels::Pixels(std::shared_ptr<Backend> backend, int64_t bytes, uint64_t stream) : Pixels(bytes) {
  backend_ = std::move(backend);
  device_ = Buffer(backend_, bytes);
  stream_ = stream;
}

void Pixels::take(Backend& maker, const void* images) {
  if (!on_device()) return maker.download(host_.get(), images, int64_t(size()));
  const std::lock_guard lock(mutex_);
  fetched_ = false;
  maker.follow(stream_);
  maker.copy(device_.data(), images, int64_t(size()));
  maker.finish();
}

uint8_t* Pixels::fill() {
  fetched_ = true;
  return host_.get();
}

uint8_t* Pixels::data() {
  const std::lock_guard lock(mutex_);
  if (!fetched_) backend_->fetch(host_.get(), device_.data(), int64_t(size()));
  fetched_ = true;
  return host_.get();
}

}  // namespace rtfm
