// SPDX-License-Identifier: Apache-2.0
// The few-step schedule: from noise to a frame.
#pragma once

#include <cstdint>
#include <vector>

#include "src/manifest.h"
#include "src/models/frame_dit.h"

namespace rtfm {

// Leaves the sampled tokens in workspace.x. The context's pages 1..pages are gathered already; the
// noise is that of the workspace's inputs.
void sample(Backend& backend, const FrameDit& network, const Workspace& workspace,
            const std::vector<SamplerRow>& table, int pages);

// x <- a·x + b·x0 + c·noise(step), and the operand copy that the next pass reads
void update(Backend& backend, const Workspace& workspace, float a, float b, float c, uint32_t step);

}  // namespace rtfm
