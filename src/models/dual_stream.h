// SPDX-License-Identifier: Apache-2.0
// The dual_stream family: a renderer without noise, time or actions. A reader encodes each frame
// alone, with the rays of its camera in the gauge of the world, and fills its page; a writer starts
// from the rays of the new view and attends to itself, then to the pages.
#pragma once

#include <memory>
#include <vector>

#include "src/network.h"

namespace rtfm {

struct DualStreamSizes {
  int image_height, image_width, patch;     // the image's sides are multiples of patch
  int width, layers, heads, head_dim, mlp;  // heads * head_dim == width
  float norm_eps, qk_norm_eps;              // of LayerNorm; of the RMSNorm of each head

  int tokens() const { return (image_height / patch) * (image_width / patch); }
  int area() const { return patch * patch; }
};

// Reads the manifest of a dual_stream model. Throws ModelError.
std::unique_ptr<Topology> open_dual_stream(const Section& root, Manifest& manifest);

// Immutable weights. A page: for each layer K, after its norm, then V of the writer's attention to
// pages, each [heads, tokens, head_dim] operand.
class DualStream final : public Network {
 public:
  // Everything a pass writes, sized once for one session.
  struct Workspace {
    Matrix seen;                // [tokens, 9 * area] operand: a clean frame with its rays
    Matrix rays;                // [tokens, 6 * area] operand: those of the frame that is wanted
    Matrix h;                   // [tokens, width] f32: the residual stream
    Matrix normed;              // [tokens, width] operand
    Matrix qkv;                 // [tokens, 3 * width] f32; the first columns of it for fewer parts
    Matrix attended;            // [tokens, width] operand
    Matrix hidden;              // [tokens, mlp] operand
    Matrix frame;               // [tokens, 3 * area] f32: the answer, in (-1, 1)
    Buffer query;               // packed queries of one layer
    Buffer context;             // slots of one layer: the frame's own, then the pages
    int64_t slot_bytes, slots;  // slots = 1 + pages

    const StepInputs* inputs;  // on the device
  };

  DualStream(const DualStreamSizes& sizes, const Weights& weights);

  std::unique_ptr<Passes> make_passes(const std::shared_ptr<Backend>& backend,
                                      int context) const override;
  int64_t page_bytes(const Backend& backend) const override;

  Workspace make_workspace(const std::shared_ptr<Backend>& backend, int pages,
                           const StepInputs* inputs) const;
  const DualStreamSizes& sizes() const { return sizes_; }

  // Read pass: fills the page of the inputs with what their camera sees.
  void read(Backend& backend, const Workspace& workspace, const Picture& picture) const;

  // Write pass: workspace.frame, as the camera of the inputs sees it, from their first `pages`
  // pages.
  void write(Backend& backend, const Workspace& workspace, int pages) const;

 private:
  struct Block {  // attention inside a frame, and the MLP: of both streams
    Linear qkv, out, up, down;
    Buffer q_gain, k_gain;
  };
  struct Reader {
    Block block;
    Linear page_kv;
    Buffer page_k_gain;
  };
  struct Writer {
    Block block;
    Linear cross_q, cross_out;
    Buffer cross_q_gain;
  };

  static Block make_block(const Weights& weights, const std::string& name);
  QkvSplitArgs split(const Workspace& workspace) const;
  void normalize(Backend& backend, const Workspace& workspace) const;
  void attend(Backend& backend, const Workspace& workspace, int64_t first_slot,
              int64_t slots) const;
  void look_inside(Backend& backend, const Workspace& workspace, const Block& block) const;
  void look_around(Backend& backend, const Workspace& workspace, int64_t layer, int pages) const;
  void feed(Backend& backend, const Workspace& workspace, const Block& block) const;
  void fill_page(Backend& backend, const Workspace& workspace, int64_t layer) const;

  DualStreamSizes sizes_;
  int64_t tokens_, width_, heads_, dim_;
  Linear reader_in_, writer_in_, out_;
  std::vector<Reader> reader_;
  std::vector<Writer> writer_;
  Buffer ones_, zeros_;  // [width] f32: the norms have neither weight nor bias
};

}  // namespace rtfm
