// SPDX-License-Identifier: Apache-2.0
// The causal_dit family: frames that follow each other under actions, each denoised from what its
// action says and what the pages of frames before it hold. python/rtfm_rt/reference/causal_dit.py
// has the mathematics.
#pragma once

#include <memory>
#include <vector>

#include "src/models/taehv.h"
#include "src/network.h"
#include "src/sampler.h"

namespace rtfm {

struct CausalDitSizes {
  int rows, cols, patch;  // tokens of a frame; places of a latent to a token's side
  int width, layers, heads, kv_heads, head_dim, mlp;
  std::vector<int> control_layers;  // that the action enters
  int control_mlp, actions;
  bool value_residual;
  float eps;
  std::vector<float> sigmas;  // of the modulation tables, falling to 0
  int period, offset;         // every period-th layer, from offset on, is global
  Sequence window;            // local layers see the recent frames, global ones the multiples
  TaehvSizes codec;

  int64_t tokens() const { return int64_t{rows} * cols; }
  int64_t token_size() const { return int64_t{codec.latent} * patch * patch; }
  int64_t query_size() const { return int64_t{heads} * head_dim; }
  int64_t key_size() const { return int64_t{kv_heads} * head_dim; }
  int64_t qkv_size() const { return query_size() + 2 * key_size(); }
  bool global(int layer) const { return layer % period == offset; }
};

// Reads the manifest of a causal_dit model. Throws ModelError.
std::unique_ptr<Topology> open_causal_dit(const Section& root, Manifest& manifest);

// Of the pages of a shot: which the local layers attend to, from the first, and the global ones, to
// the last.
struct ContextSight {
  int local = 0, first_global = 0, global = 0;
};
ContextSight sight_of(const Sequence& window, const Shot& shot);

// Everything a pass writes. Slot 0 of a layer's context is the frame's own K/V.
struct CausalWorkspace {
  Matrix x;              // [tokens, token_size] f32: the noisy frame
  Matrix x_operand;      // its operand copy: what a pass reads
  Matrix velocity;       // [tokens, token_size] f32: the network's answer
  Matrix h;              // [tokens, width] f32: the residual stream
  Matrix normed, fused;  // [tokens, width] operand
  Matrix first, qkv;     // [tokens, qkv_size] f32: of the first layer, and of the others
  Matrix attended;       // [tokens, query_size] operand
  Matrix hidden;         // [tokens, mlp] operand
  Matrix action;         // [1, actions] f32
  Matrix action_operand, control_hidden, control_operand;  // one row, operand
  Matrix control;                                          // [1, width] f32
  Matrix fuse;                            // [control layers, width] f32: what the action adds
  Buffer cos, sin;                        // [tokens, head_dim / 2]: of space, then of time
  std::vector<float> host_cos, host_sin;  // the same, to be uploaded
  Buffer query, context;
  int64_t slot_bytes, slots;
  TaehvScratch codec;
  const StepInputs* inputs;  // on the device

  std::byte* slot(int layer) const { return context.data() + layer * slots * slot_bytes; }
  SamplerState sampler_state() const { return {x, x_operand, velocity, inputs}; }
};

// Immutable weights.
class CausalDit final : public Network {
 public:
  CausalDit(const CausalDitSizes& sizes, const Manifest& manifest, const Weights& weights);

  std::unique_ptr<Passes> make_passes(const std::shared_ptr<Backend>& backend,
                                      int context) const override;
  int64_t page_bytes(const Backend& backend) const override;   // K/V of all layers
  int64_t state_bytes(const Backend& backend) const override;  // what the decoder remembers

  const CausalDitSizes& sizes() const { return sizes_; }
  const Taehv& codec() const { return codec_; }

  CausalWorkspace make_workspace(const std::shared_ptr<Backend>& backend,
                                 const StepInputs* inputs) const;
  // Uploads the action of a shot, and the angles of its frame.
  void prepare(Backend& backend, CausalWorkspace& w, const Shot& shot) const;

  // Once for each shot: what its action adds to the layers, and its pages into the context.
  void control(Backend& backend, const CausalWorkspace& w) const;
  void gather(Backend& backend, const CausalWorkspace& w, const ContextSight& sight) const;

  // w.codec.latent → w.x and its operand copy
  void tokenize(Backend& backend, const CausalWorkspace& w) const;
  void untokenize(Backend& backend, const CausalWorkspace& w) const;  // w.x → w.codec.squashed

  // The velocity of the noisy tokens in w.x_operand at t, a sigma of the manifest.
  void write(Backend& backend, const CausalWorkspace& w, float t, const ContextSight& sight) const;
  // The page of the clean tokens in w.x_operand.
  void read(Backend& backend, const CausalWorkspace& w, const ContextSight& sight) const;

 private:
  struct Fuse {
    Linear x, c, out;
    int64_t row;  // of w.fuse
  };
  struct Block {
    Linear qkv, out, up, down;
    std::unique_ptr<Fuse> fuse;  // null: the action does not enter here
  };
  struct Modulation {  // vectors [width]; scales hold their 1 +
    const float *shift1, *scale1, *gate1, *shift2, *scale2, *gate2;
  };

  void build_modulation(const Weights& weights);
  int64_t time_index(float t) const;
  Modulation modulation(int64_t time, int layer) const;
  const Matrix& keys_and_values(Backend& backend, const CausalWorkspace& w, int layer) const;
  void attend(Backend& backend, const CausalWorkspace& w, int layer,
              const ContextSight& sight) const;
  void split(Backend& backend, const CausalWorkspace& w, int layer, const StepInputs* page) const;
  void finish(Backend& backend, const CausalWorkspace& w, int layer, const Modulation& m) const;

  CausalDitSizes sizes_;
  std::map<int, std::vector<SamplerRow>> samplers_;
  Linear in_, out_, control_in_, control_out_;
  std::vector<Block> blocks_;
  Taehv codec_;
  std::vector<float> value_mix_;  // [layers]; empty: values are not mixed
  std::vector<float> cos_, sin_;  // [tokens, head_dim / 4]: of the pairs that turn with x and y
  std::vector<float> turning_;    // [head_dim / 4]: of the others, radians per frame
  Buffer modulation_;             // [sigmas, layers, 6, width]
  Buffer final_modulation_;       // [sigmas, 2, width]: shift, scale
  Buffer ones_, zeros_;           // [max(width, head_dim)]
};

}  // namespace rtfm
