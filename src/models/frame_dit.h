// SPDX-License-Identifier: Apache-2.0
// The frame_dit family: a diffusion transformer over the patches of one frame that also attends to
// pages, the camera-local K/V of other frames. docs/design.md has the mathematics.
#pragma once

#include <memory>
#include <vector>

#include "src/network.h"
#include "src/sampler.h"

namespace rtfm {

struct FrameDitSizes {
  int image_height, image_width, patch;     // the image's sides are multiples of patch
  int width, layers, heads, head_dim, mlp;  // heads * head_dim == width

  int tokens() const { return (image_height / patch) * (image_width / patch); }
  int token_size() const { return 3 * patch * patch; }
};

// Reads the manifest of a frame_dit model. Throws ModelError.
std::unique_ptr<Topology> open_frame_dit(const Section& root, Manifest& manifest);

// One page: for each layer K then V, each [heads, tokens, dim] operand, as the frame's own camera
// sees.
struct PageLayout {
  int64_t layers, heads, tokens, dim, element;  // element: bytes

  int64_t bytes() const { return layers * 2 * heads * tokens * dim * element; }
};

// Everything a pass writes, sized once for one session. Slot 0 of the context is the frame's own
// K/V; slots 1, 2, ... hold the gathered pages.
struct Workspace {
  Matrix x;          // [tokens, token_size] f32: the noisy frame
  Matrix x_operand;  // its operand copy, or the patches of a clean frame: what a pass reads
  Matrix x0;         // [tokens, token_size] f32: the network's answer
  Matrix h;          // [tokens, width] f32: the residual stream
  Matrix normed;     // [tokens, width] operand
  Matrix qkv;        // [tokens, 3 * width] f32
  Matrix attended;   // [tokens, width] operand
  Matrix hidden;     // [tokens, mlp] operand
  Buffer query;      // packed queries of one layer
  Buffer context;    // [layers, 1 + pages] slots
  int64_t slot_bytes, slots;  // slots = 1 + pages

  const StepInputs* inputs;  // on the device

  std::byte* slot(int64_t layer, int64_t index) const {
    return context.data() + (layer * slots + index) * slot_bytes;
  }
  SamplerState sampler_state() const { return {x, x_operand, x0, inputs}; }
};

// Immutable weights. Any number of sessions may call the passes at once, each with its own
// workspace and backend of the device that the weights are on.
class FrameDit final : public Network {
 public:
  FrameDit(const FrameDitSizes& sizes, const Manifest& manifest, const Weights& weights);

  std::unique_ptr<Passes> make_passes(const std::shared_ptr<Backend>& backend,
                                      int context) const override;
  int64_t page_bytes(const Backend& backend) const override { return page_layout(backend).bytes(); }

  Workspace make_workspace(const std::shared_ptr<Backend>& backend, int pages,
                           const StepInputs* inputs) const;
  PageLayout page_layout(const Backend& backend) const;
  const FrameDitSizes& sizes() const { return sizes_; }

  // Read pass: encodes the clean frame in workspace.x_operand and fills the page of the inputs.
  void read(Backend& backend, const Workspace& workspace) const;

  // Brings the first `pages` pages of the inputs into the context as the query camera sees them.
  // Once per pose, for all denoising steps.
  void gather(Backend& backend, const Workspace& workspace, int pages) const;

  // Write pass: x0 from the noisy frame in workspace.x_operand at time t, attending to itself and
  // to the `pages` gathered ones. t must be a time of the manifest's samplers.
  void write(Backend& backend, const Workspace& workspace, float t, int pages) const;

 private:
  struct Block {
    Linear qkv, out, up, down;
    Buffer q_gain, k_gain;
  };
  // The six vectors [width] of one block at one time; scales hold their 1 +.
  struct Modulation {
    const float *shift1, *scale1, *gate1, *shift2, *scale2, *gate2;
  };

  void build_modulation(const Weights& weights);
  void build_rope(const Weights& weights);
  int64_t time_index(float t) const;
  Modulation modulation(int64_t time, int64_t layer) const;
  void split(Backend& backend, const Workspace& workspace, int64_t layer,
             const StepInputs* inputs) const;
  void transform_tokens(Backend& backend, const Workspace& workspace, int64_t layer,
                        const Modulation& m, int pages) const;

  FrameDitSizes sizes_;
  const std::map<int, std::vector<SamplerRow>> samplers_;
  int64_t tokens_, width_, heads_, dim_;
  Linear in_, out_;
  std::vector<Block> blocks_;
  std::vector<float> times_;  // sorted; 0 is the read pass
  Buffer modulation_;         // [times, layers, 6, width] f32
  Buffer final_shift_scale_;  // [2, width] f32; the scale holds its 1 +
  Buffer cos_, sin_;          // [tokens, dim / 4] f32
};

}  // namespace rtfm
