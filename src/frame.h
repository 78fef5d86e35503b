// SPDX-License-Identifier: Apache-2.0
// One generated image with its receipt: what it cost and how much of it was remembered.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "src/frame_cache.h"
#include "src/pixels.h"
#include "src/pose.h"

namespace rtfm {

struct Frame {
  std::shared_ptr<Pixels> pixels;
  int images = 1, height = 0, width = 0;
  View view{};

  int64_t id = 0;                              // position in the session's sequence of frames
  double latency = 0;                          // seconds, from the call to the finished frame
  int steps = 0;                               // denoising steps
  int context_size = 0;                        // pages attended to
  std::array<int64_t, kMaxContext> context{};  // their frame ids
  double support = 0;                          // share of the view that the context has seen, 0..1
  bool late = false;                           // the deadline passed before it was finished
  bool committed = false;                      // it became part of the world

  // The latest of its images, [height, width, 3], on the host; and where it lies in the pixels.
  uint8_t* image() const { return pixels->data() + image_offset(); }
  size_t image_offset() const { return pixels->size() / size_t(images) * size_t(images - 1); }

  // The same frame as a camera turned to `pose` would see it (the position is ignored): a
  // homography, bilinear, edges stretched. Late rotation correction for head-mounted displays.
  Frame reproject(const Pose& pose) const;
};

}  // namespace rtfm
