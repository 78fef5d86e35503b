// SPDX-License-Identifier: Apache-2.0
// The few-step schedule: from noise to a frame.
#pragma once

#include <cstdint>
#include <vector>

#include "src/manifest.h"
#include "src/models/frame_dit.h"

namespace rtfm {

struct NoiseKey {
  uint64_t seed, frame;
};

// Leaves the sampled tokens in workspace.x. The context's pages 1..pages are gathered already.
void sample(Backend& backend, const FrameDit& network, const Workspace& workspace,
            const std::vector<SamplerRow>& table, int pages, const NoiseKey& noise);

// x <- a·x + b·x0 + c·noise(step), and the operand copy that the next pass reads
void update(Backend& backend, const Workspace& workspace, float a, float b, float c,
            const NoiseKey& noise, uint32_t step);

}  // namespace rtfm
