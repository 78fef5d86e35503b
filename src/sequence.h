// SPDX-License-Identifier: Apache-2.0
// Models that go from frame to frame by actions: which frames the next one attends to, and where
// the camera seems to be.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/manifest.h"
#include "src/pose.h"

namespace rtfm {

// The ids that frame `frame` attends to: of the recent ones those that are no multiple of `every`,
// then those that are, then the older multiples, each from the newest to the oldest. So what a
// layer sees of the recent frames and what another sees of the multiples are both neighbours.
std::vector<int64_t> sequence_context(const Sequence& sequence, int64_t frame);

int window_size(const Sequence& sequence);  // the most of them

// Dead reckoning: where the camera is after `values` of `actions`. Moves are along the camera's
// heading, level with the world; turns are about the world's vertical and the camera's own x axis.
Pose reckon(const Pose& from, std::span<const Action> actions, std::span<const float> values);

}  // namespace rtfm
