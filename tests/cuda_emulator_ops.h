// SPDX-License-Identifier: Apache-2.0
// Test only: what an emulated CUDA device does for each op, and the device memory that it may
// touch.
#pragma once

#include <array>

#include "csrc/cuda/api.h"
#include "csrc/cuda/latent_body.h"

namespace rtfm::testing {

struct Range {
  const void* start;
  int64_t bytes;  // 0 for what is not there
};

// A matmul that multiplies in e4m3.
struct QuantizedMatmul {
  MatmulArgs args;
};

std::array<Range, 5> ranges(const MatmulArgs& a);
std::array<Range, 5> ranges(const QuantizedMatmul& a);
std::array<Range, 4> ranges(const NormModulateArgs& a);
std::array<Range, 10> ranges(const QkvSplitArgs& a);
std::array<Range, 2> ranges(const GatherArgs& a);
std::array<Range, 3> ranges(const AttentionArgs& a);
std::array<Range, 4> ranges(const SamplerArgs& a);
std::array<Range, 2> ranges(const PatchifyArgs& a);
std::array<Range, 2> ranges(const UnpatchifyArgs& a);
std::array<Range, 3> ranges(const cuda::EpilogueArgs& a);
std::array<Range, 3> ranges(const cuda::UnfoldArgs& a);
std::array<Range, 2> ranges(const cuda::StateLoad& a);
std::array<Range, 2> ranges(const cuda::StateStore& a);
std::array<Range, 3> ranges(const RayPatchesArgs& a);
std::array<Range, 7> ranges(const TimeAttentionArgs& a);
std::array<Range, 4> ranges(const ConditionArgs& a);
std::array<Range, 2> ranges(const SaveFrameArgs& a);
std::array<Range, 3> ranges(const LoadFrameArgs& a);
std::array<Range, 2> ranges(const GroupArgs& a);
std::array<Range, 2> ranges(const UngroupArgs& a);

void run(const MatmulArgs& a);
void run(const QuantizedMatmul& a);
void run(const NormModulateArgs& a);
void run(const QkvSplitArgs& a);
void run(const GatherArgs& a);
void run(const AttentionArgs& a);
void run(const SamplerArgs& a);
void run(const PatchifyArgs& a);
void run(const UnpatchifyArgs& a);
void run(const cuda::EpilogueArgs& a);
void run(const cuda::UnfoldArgs& a);
void run(const cuda::StateLoad& a);
void run(const cuda::StateStore& a);
void run(const RayPatchesArgs& a);
void run(const TimeAttentionArgs& a);
void run(const ConditionArgs& a);
void run(const SaveFrameArgs& a);
void run(const LoadFrameArgs& a);
void run(const GroupArgs& a);
void run(const UngroupArgs& a);

}  // namespace rtfm::testing
