// SPDX-License-Identifier: Apache-2.0
// The images of a frame: in host memory, or on a GPU until somebody wants them on the host.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "src/tensor.h"

namespace rtfm {

// [images, height, width, 3] RGB. One thread fills it, then any may read.
class Pixels {
 public:
  explicit Pixels(int64_t bytes);
  // On the device of `backend`. stream: its stream whose work may still read the images before
  // these.
  Pixels(std::shared_ptr<Backend> backend, int64_t bytes, uint64_t stream);

  // What lies at `images` on the device of `maker`, as soon as it is made.
  void take(Backend& maker, const void* images);
  uint8_t* fill();  // host memory for other images than those of a device

  uint8_t* data();  // on the host, copied there the first time; BackendError if that fails
  size_t size() const { return size_t(bytes_); }
  const std::byte* on_device() const { return device_.data(); }  // null for those on the host
  int ordinal() const { return backend_ ? backend_->ordinal() : -1; }

 private:
  int64_t bytes_;
  std::shared_ptr<Backend> backend_;
  Buffer device_;
  uint64_t stream_ = 0;
  std::mutex mutex_;                                // of the two below
  std::unique_ptr<uint8_t, void (*)(void*)> host_;  // calloc: untouched until it is used
  bool fetched_ = true;                             // the host has what the device has
};

}  // namespace rtfm
