// SPDX-License-Identifier: Apache-2.0
#include "src/network.h"

#include <algorithm>
#include <utility>

#include "src/check.h"

namespace rtfm {

void check_patches(const Manifest& m, int patch) {
  check<ModelError>(m.image_height % patch == 0 && m.image_width % patch == 0,
                    "manifest image: expected sides that are multiples of ", patch, ", got ",
                    m.image_height, "x", m.image_width);
  const int tokens = m.image_height / patch * (m.image_width / patch);
  check<ModelError>(tokens <= kMaxTokens, "manifest image: expected at most ", kMaxTokens,
                    " tokens, got ", tokens);
}

void check_heads(const Section& section, int heads, int head_dim, int width) {
  check<ModelError>(head_dim % 8 == 0, section.label("head_dim"), "expected a multiple of 8, got ",
                    head_dim);
  check<ModelError>(heads * head_dim == width, section.label("width"),
                    "expected heads * head_dim = ", heads * head_dim, ", got ", width);
}

Passes::Passes(std::shared_ptr<Backend> backend, int64_t frame_bytes)
    : backend_(std::move(backend)),
      image_(backend_, frame_bytes),
      inputs_(backend_, sizeof(StepInputs)) {}

void Passes::prepare(const Shot& shot, std::byte* page, int) {
  StepInputs inputs{};
  for (size_t i = 0; i < shot.context.size(); ++i) {
    inputs.pages[i] = shot.context[i].page;
    std::copy(shot.context[i].transform.begin(), shot.context[i].transform.end(),
              inputs.transforms[i]);
  }
  inputs.seed = shot.seed, inputs.frame = shot.frame;
  inputs.page = page;
  inputs.state = shot.state, inputs.next_state = shot.next_state;
  inputs.camera = shot.camera;
  std::copy(shot.actions.begin(), shot.actions.end(), inputs.actions);
  backend_->upload(inputs_.data(), &inputs, sizeof inputs);
}

void Passes::keep(int) { fail<Error>("[network] expected a family with a sequence"); }
void Passes::renew(int) { fail<Error>("[network] expected a family with a sequence"); }

}  // namespace rtfm
