// SPDX-License-Identifier: Apache-2.0
#include "src/sampler.h"

namespace rtfm {

void update(Backend& backend, const SamplerState& s, float a, float b, float c, uint32_t step) {
  backend.sampler({.x = static_cast<float*>(s.x.data),
                   .x0 = static_cast<const float*>(s.answer.data),
                   .operand = s.operand.data,
                   .inputs = s.inputs,
                   .x_stride = s.x.stride,
                   .x0_stride = s.answer.stride,
                   .operand_stride = s.operand.stride,
                   .rows = s.x.rows,
                   .cols = s.x.cols,
                   .a = a,
                   .b = b,
                   .c = c,
                   .step = step});
}

}  // namespace rtfm
