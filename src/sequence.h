// SPDX-License-Identifier: Apache-2.0
// Models that go from frame to frame by actions: which frames the next one attends to, and where
// the camera seems to be.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "src/manifest.h"
#include "src/pose.h"

namespace rtfm {

// f(id) of what frame `frame` attends to: of the recent ones those that are no multiple of `every`,
// then those that are, then the older multiples, each from the newest to the oldest. So what a
// layer sees of the recent frames and what another sees of the multiples are both neighbours.
template <class F>
void for_each_seen(const Sequence& s, int64_t frame, const F& f) {
  const auto is_multiple = [&](int64_t id) {
    return s.every && id % s.every == 0 && id > frame - s.within;
  };
  for (int64_t id = frame - 1; id >= 0 && id >= frame - s.recent; --id)
    if (!is_multiple(id)) f(id);
  for (int64_t id = frame - 1; id >= 0 && id > frame - s.within; --id)
    if (is_multiple(id)) f(id);
}

std::vector<int64_t> sequence_context(const Sequence& sequence, int64_t frame);

int window_size(const Sequence& sequence);  // the most of them

// Its place among the actions of a model. Throws ArgumentError for a name that is none of theirs.
size_t find_action(const Manifest& manifest, std::string_view name);

// Dead reckoning: where the camera is after `values` of `actions`. Moves are along the camera's
// heading, level with the world; turns are about the world's vertical and the camera's own x axis.
Pose reckon(const Pose& from, std::span<const Action> actions, std::span<const float> values);

}  // namespace rtfm
