// SPDX-License-Identifier: Apache-2.0
// The few-step schedule: from noise to a frame.
#pragma once

#include <cstdint>
#include <vector>

#include "src/manifest.h"
#include "src/tensor.h"

namespace rtfm {

// What a sampler works on; all [tokens, token_size].
struct SamplerState {
  const Tensor& x;        // f32: the noisy frame
  const Tensor& operand;  // its operand copy, which a pass reads
  const Tensor& answer;   // f32: what the network said of it
  const StepInputs* inputs;
};

// x <- a·x + b·answer + c·noise(step), and the operand copy
void update(Backend& backend, const SamplerState& state, float a, float b, float c, uint32_t step);

// Leaves the sampled tokens in state.x. answer(t) makes the network's answer to state.operand.
template <class F>
void sample(Backend& backend, const SamplerState& state, const std::vector<SamplerRow>& table,
            const F& answer) {
  update(backend, state, 0.f, 0.f, 1.f, 0);  // x starts as noise
  uint32_t step = 0;
  for (const SamplerRow& row : table) {
    answer(row.t);
    update(backend, state, row.a, row.b, row.c, ++step);
  }
}

}  // namespace rtfm
