// SPDX-License-Identifier: Apache-2.0
// Test only: what an emulated CUDA device does for each op, and the device memory that it may
// touch.
#pragma once

#include <array>

#include "csrc/backend.h"

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

void run(const MatmulArgs& a);
void run(const QuantizedMatmul& a);
void run(const NormModulateArgs& a);
void run(const QkvSplitArgs& a);
void run(const GatherArgs& a);
void run(const AttentionArgs& a);
void run(const SamplerArgs& a);
void run(const PatchifyArgs& a);
void run(const UnpatchifyArgs& a);

}  // namespace rtfm::testing
