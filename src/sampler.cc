// SPDX-License-Identifier: Apache-2.0
#include "src/sampler.h"

namespace rtfm {

void update(Backend& backend, const Workspace& w, float a, float b, float c, uint32_t step) {
  const Tensor &x = w.x, &x0 = w.x0, &copy = w.x_operand;
  backend.sampler({.x = static_cast<float*>(x.data),
                   .x0 = static_cast<const float*>(x0.data),
                   .operand = copy.data,
                   .inputs = w.step_inputs(),
                   .x_stride = x.stride,
                   .x0_stride = x0.stride,
                   .operand_stride = copy.stride,
                   .rows = x.rows,
                   .cols = x.cols,
                   .a = a,
                   .b = b,
                   .c = c,
                   .step = step});
}

void sample(Backend& backend, const FrameDit& network, const Workspace& workspace,
            const std::vector<SamplerRow>& table, int pages) {
  update(backend, workspace, 0.f, 0.f, 1.f, 0);  // x starts as noise
  uint32_t step = 0;
  for (const SamplerRow& row : table) {
    network.write(backend, workspace, row.t, pages);
    update(backend, workspace, row.a, row.b, row.c, ++step);
  }
}

}  // namespace rtfm
