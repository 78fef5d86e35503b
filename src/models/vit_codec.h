// SPDX-License-Identifier: Apache-2.0
// A vision transformer that turns a picture into a small latent and back.
#pragma once

#include <memory>
#include <vector>

#include "src/models/self_attention.h"
#include "src/network.h"

namespace rtfm {

struct VitSizes {
  int image_height, image_width, patch;  // pixels; the image's sides are multiples of patch
  int channels;                          // of the latent
  int width, encoder_layers, decoder_layers, heads, mlp;
  int rope;  // pairs that turn in a head
  float eps;

  int tokens() const { return (image_height / patch) * (image_width / patch); }
  int token_size() const { return 3 * patch * patch; }
};

// Reads the manifest's section `codec`. Throws ModelError.
VitSizes read_vit(const Section& codec, const Manifest& manifest, int channels);
void add_vit_tensors(const VitSizes& sizes, Shapes& shapes);  // under the names `codec.`

// Immutable weights, shared by any number of sessions.
class VitCodec {
 public:
  VitCodec(const VitSizes& sizes, const Weights& weights);

  struct Workspace {
    Matrix pixels;          // [tokens, token_size] operand
    Matrix patches;         // [tokens, token_size] f32
    Matrix latent;          // [tokens, channels] f32: what encode leaves
    Matrix latent_operand;  // what decode reads
    Matrix h;               // [tokens, width] f32
    Matrix normed;          // [tokens, width] operand
    Matrix qkv;             // [tokens, 3 * width] f32
    Matrix attended;        // [tokens, width] operand
    Matrix hidden;          // [tokens, mlp] operand
    SelfAttention::Workspace attention;
  };
  Workspace make_workspace(const std::shared_ptr<Backend>& backend) const;

  void encode(Backend& backend, const Workspace& w, const Picture& picture) const;
  void decode(Backend& backend, const Workspace& w, const Picture& picture) const;

 private:
  struct Block {
    Linear qkv, out, up, down;
  };
  struct Tower {  // a linear layer in, blocks, a norm and a linear layer out
    Linear in, out;
    std::vector<Block> blocks;
  };

  static Tower make_tower(const Weights& weights, const std::string& name, int layers);
  void norm(Backend& backend, const Workspace& w) const;
  void run(Backend& backend, const Workspace& w, const Tower& tower, const Tensor& x,
           const Tensor& y) const;

  VitSizes sizes_;
  Tower encoder_, decoder_;
  SelfAttention attention_;
  Buffer ones_, zeros_;  // [width] f32: norms have no weight of their own
};

}  // namespace rtfm
