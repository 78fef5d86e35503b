// SPDX-License-Identifier: Apache-2.0
// The newest pose of a camera, written by one thread and read by another.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "src/pose.h"

namespace rtfm {

// Two copies, one of which is always whole: a writer turns readers to the other one before it
// touches a copy. So neither waits for the other, and no pose is ever seen half-written. Several
// writers take turns.
class PoseSlot {
 public:
  explicit PoseSlot(const Pose& pose) { write(pose); }
  PoseSlot(const PoseSlot&) = delete;
  PoseSlot& operator=(const PoseSlot&) = delete;

  void write(const Pose& pose);
  Pose read() const;

 private:
  using Copy = std::array<std::atomic<double>, 12>;  // rotation, position
  static_assert(std::atomic<double>::is_always_lock_free);

  std::atomic<uint64_t> turn_{0};  // even: read copy 0, odd: copy 1
  Copy copies_[2] = {};
  std::atomic_flag writing_ = ATOMIC_FLAG_INIT;
};

}  // namespace rtfm
