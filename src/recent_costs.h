// SPDX-License-Identifier: Apache-2.0
// What something takes, from what it took lately.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace rtfm {

class RecentCosts {
 public:
  void add(double seconds) { ring_[size_t(count_++ % kKept)] = seconds; }

  // What it should be expected to take: as long as all of the last kKept but for the longest one of
  // every 32, so that a hiccup of the machine is no reason to hurry ever after. 0 before the first.
  double expected() const {
    std::array<double, kKept> sorted = ring_;
    const int64_t kept = std::min(count_, kKept);
    if (kept == 0) return 0;
    const int64_t longest = (kept + 30) / 32;  // none of 1, one of 2
    const auto at = sorted.begin() + (kept - 1 - longest);
    std::nth_element(sorted.begin(), at, sorted.begin() + kept);
    return *at;
  }

 private:
  static constexpr int64_t kKept = 64;
  std::array<double, kKept> ring_{};
  int64_t count_ = 0;
};

}  // namespace rtfm
