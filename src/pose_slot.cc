// SPDX-License-Identifier: Apache-2.0
#include "src/pose_slot.h"

#include <algorithm>
#include <thread>

namespace rtfm {

void PoseSlot::write(const Pose& pose) {
  double values[12];
  std::copy(pose.position.begin(), pose.position.end(),
            std::copy(pose.rotation.begin(), pose.rotation.end(), values));
  while (writing_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  for (Copy& copy : copies_) {
    // The other copy is published, and whoever sees a value written below sees this turn too.
    turn_.store(turn_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    std::atomic_thread_fence(std::memory_order_release);
    for (size_t i = 0; i < copy.size(); ++i) copy[i].store(values[i], std::memory_order_relaxed);
  }
  writing_.clear(std::memory_order_release);
}

Pose PoseSlot::read() const {
  for (;;) {
    const uint64_t turn = turn_.load(std::memory_order_acquire);
    const Copy& copy = copies_[turn % 2];
    Pose pose;
    for (size_t i = 0; i < 9; ++i) pose.rotation[i] = copy[i].load(std::memory_order_relaxed);
    for (size_t i = 0; i < 3; ++i) pose.position[i] = copy[9 + i].load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (turn_.load(std::memory_order_relaxed) == turn) return pose;
  }
}

}  // namespace rtfm
