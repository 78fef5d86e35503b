// SPDX-License-Identifier: Apache-2.0
// The st_dit family (Oasis): a diffusion transformer over the latent of one frame, led by actions.
// Each block attends within the frame and then in time, each token to the same token of the frames
// before. python/rtfm_rt/reference/st_dit.py is the same in PyTorch.
#pragma once

#include <memory>
#include <vector>

#include "src/models/vit_codec.h"
#include "src/network.h"
#include "src/sampler.h"

namespace rtfm {

struct StDitSizes {
  VitSizes codec;
  int height, grid_width, channels;  // of the latent
  int patch;                         // of the latent's sides, which are multiples of it
  int width, layers, heads, mlp, actions;
  int window;  // frames that see each other, the new one included
  float commit_time, eps;

  int tokens() const { return (height / patch) * (grid_width / patch); }
  int token_size() const { return channels * patch * patch; }
  int head_dim() const { return width / heads; }
};

// Reads the manifest of an st_dit model. Throws ModelError.
std::unique_ptr<Topology> open_st_dit(const Section& root, Manifest& manifest);

// Immutable weights. Any number of sessions may call the passes at once, each with its own
// workspace and backend of the device that the weights are on.
//
// A page: for each layer K (before RoPE) then V of the temporal half, each [tokens, width] operand;
// then the frame's latent [tokens, token_size] f32 and its actions [actions] f32.
class StDit final : public Network {
 public:
  StDit(const StDitSizes& sizes, const Manifest& manifest, const Weights& weights);

  std::unique_ptr<Passes> make_passes(const std::shared_ptr<Backend>& backend,
                                      int context) const override;
  int64_t page_bytes(const Backend& backend) const override {
    return latent_offset(backend) +
           4 * int64_t(sizes_.tokens() * sizes_.token_size() + sizes_.actions);
  }
  PagePart renewed_from(const Backend& backend) const override {
    const int64_t offset = latent_offset(backend);
    return {offset, page_bytes(backend) - offset, DType::f32};
  }

  // Everything a pass writes, sized once for one session.
  struct Workspace {
    VitCodec::Workspace codec;
    Matrix x;          // [tokens, token_size] f32: the latent, noisy or clean
    Matrix x_operand;  // its operand copy: what a pass reads
    Matrix v;          // [tokens, token_size] f32: the network's answer
    Matrix h;          // [tokens, width] f32: the residual stream
    Matrix normed;     // [tokens, width] operand
    Matrix qkv;        // [tokens, 3 * width] f32
    Matrix attended;   // [tokens, width] operand
    Matrix hidden;     // [tokens, mlp] operand
    SelfAttention::Workspace attention;
    Buffer actions;                  // [actions] f32, of a page
    Matrix condition;                // [times, width] operand; times: the commit's, the steps'
    std::vector<Matrix> modulation;  // of each block: [times, 12 * width] f32
    Matrix final_modulation;         // [times, 2 * width] f32
    Buffer cos, sin;                 // [1 + context, head_dim / 2] f32: see TimeAttentionArgs
    const StepInputs* inputs;        // on the device

    SamplerState sampler_state() const { return {x, x_operand, v, inputs}; }
  };
  Workspace make_workspace(const std::shared_ptr<Backend>& backend, int context,
                           const StepInputs* inputs) const;

  // image -> latent in x, and the reverse
  void encode(Backend& backend, const Workspace& w, const Picture& picture) const;
  void decode(Backend& backend, const Workspace& w, const Picture& picture) const;
  // x and the actions of the inputs <-> the page of the inputs
  void save(Backend& backend, const Workspace& w) const;
  void load(Backend& backend, const Workspace& w) const;
  // The modulation of the commit's time and, with steps > 0, of all times of that sampler table;
  // actions [actions] on the device.
  void modulate(Backend& backend, const Workspace& w, int steps, const float* actions) const;
  // Read pass: the K/V of the clean latent x to the page of the inputs.
  void read(Backend& backend, const Workspace& w, int pages) const;
  // Write pass: v of the noisy latent x at the time of a row of the sampler table.
  void write(Backend& backend, const Workspace& w, int row, int pages) const;

  const StDitSizes& sizes() const { return sizes_; }
  const std::vector<SamplerRow>& sampler(int steps) const { return samplers_.at(steps); }
  // [window, head_dim / 2]: of the angles over 0, 1, ... frames
  const float* cos() const { return cos_.data(); }
  const float* sin() const { return sin_.data(); }

 private:
  struct Half {
    Linear qkv, out, up, down;
  };
  struct Block {
    Linear modulation;  // six rows for each half; the biases of scales hold their 1 +
    Half spatial, temporal;
  };
  // The six vectors [width] of half a block at one time.
  struct Modulation {
    const float *shift1, *scale1, *gate1, *shift2, *scale2, *gate2;
  };

  int64_t latent_offset(const Backend& backend) const {
    return int64_t(sizes_.layers) * 2 * sizes_.tokens() * sizes_.width *
           size_of(backend.operand_dtype());
  }
  void build_blocks(const Weights& weights);
  void build_conditions(const Weights& weights);
  void build_angles(const std::vector<float>& radians);
  Modulation modulation(const Workspace& w, int64_t layer, int row, int half) const;
  void copy_to_operand(Backend& backend, const Workspace& w) const;
  void split(Backend& backend, const Workspace& w, const Half& half, const Modulation& m) const;
  void finish(Backend& backend, const Workspace& w, const Half& half, const Modulation& m) const;
  void look_around(Backend& backend, const Workspace& w, int64_t layer, int row) const;
  void look_back(Backend& backend, const Workspace& w, int64_t layer, int pages, void* y) const;

  StDitSizes sizes_;
  const std::map<int, std::vector<SamplerRow>> samplers_;
  VitCodec codec_;
  SelfAttention attention_;
  Linear in_, final_modulation_, out_;
  std::vector<Block> blocks_;
  std::map<int, Buffer> conditions_;  // by steps: [1 + steps, width] f32, what times say; 0 as well
  Buffer actions_;                    // [actions, width] f32
  std::vector<float> cos_, sin_;      // [window, head_dim / 2]
};

}  // namespace rtfm
