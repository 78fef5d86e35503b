// SPDX-License-Identifier: Apache-2.0
// The sizes of a frame_dit model from its manifest, and its passes over frames.
#include "src/check.h"
#include "src/models/frame_dit.h"
#include "src/models/time_features.h"

namespace rtfm {
namespace {

class FrameDitTopology final : public Topology {
 public:
  explicit FrameDitTopology(const FrameDitSizes& sizes) : s_(sizes) {}

  Shapes tensors() const override;
  std::unique_ptr<Network> build(const Manifest& m, const Weights& weights) const override {
    return std::make_unique<FrameDit>(s_, m, weights);
  }

 private:
  FrameDitSizes s_;
};

Shapes FrameDitTopology::tensors() const {
  const int64_t width = s_.width, mlp = s_.mlp, head_dim = s_.head_dim, token = s_.token_size();
  Shapes shapes{
      {"in.weight", {width, token}},
      {"in.bias", {width}},
      {"time.0.weight", {width, kTimeFeatures}},
      {"time.0.bias", {width}},
      {"time.2.weight", {6 * width, width}},
      {"time.2.bias", {6 * width}},
      {"final.modulation", {2, width}},
      {"out.weight", {token, width}},
      {"out.bias", {token}},
  };
  for (int layer = 0; layer < s_.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    shapes[block + "modulation"] = {6, width};
    shapes[block + "qkv.weight"] = {3 * width, width};
    shapes[block + "q_gain"] = {head_dim};
    shapes[block + "k_gain"] = {head_dim};
    shapes[block + "out.weight"] = {width, width};
    shapes[block + "up.weight"] = {mlp, width};
    shapes[block + "up.bias"] = {mlp};
    shapes[block + "down.weight"] = {width, mlp};
    shapes[block + "down.bias"] = {width};
  }
  return shapes;
}

class FrameDitPasses final : public Passes {
 public:
  FrameDitPasses(const FrameDit& network, const std::shared_ptr<Backend>& backend, int64_t bytes,
                 const std::map<int, std::vector<SamplerRow>>& samplers, int context)
      : Passes(backend, bytes),
        network_(network),
        samplers_(samplers),
        workspace_(network.make_workspace(backend, context, inputs())) {}

  void write(int pages, int steps) override {
    network_.gather(*backend_, workspace_, pages);
    sample(*backend_, workspace_.sampler_state(), samplers_.at(steps),
           [&](float t) { network_.write(*backend_, workspace_, t, pages); });
    unpatchify(*backend_, workspace_.x, network_.sizes().patch, picture());
  }
  void read(int) override {
    patchify(*backend_, picture(), network_.sizes().patch, workspace_.x_operand);
    network_.read(*backend_, workspace_);
  }

 private:
  Picture picture() const {
    return {image().data(), network_.sizes().image_height, network_.sizes().image_width};
  }

  const FrameDit& network_;
  const std::map<int, std::vector<SamplerRow>>& samplers_;
  Workspace workspace_;
};

}  // namespace

std::unique_ptr<Topology> open_frame_dit(const Section& root, Manifest& m) {
  m = parse_manifest(root, {"codec", "width", "layers", "heads", "head_dim", "mlp"}, 1);
  const Section codec = root.section("codec");
  codec.has_exactly({"kind", "patch"});
  codec.is("kind", "patch");
  const FrameDitSizes s{.image_height = m.image_height,
                        .image_width = m.image_width,
                        .patch = codec.size("patch", 1, 64),
                        .width = root.size("width", 8, 8192),
                        .layers = root.size("layers", 1, 128),
                        .heads = root.size("heads", 1, 1024),
                        .head_dim = root.size("head_dim", 8, 256),
                        .mlp = root.size("mlp", 1, 65536)};
  check_patches(m, s.patch);
  check_heads(root, s.heads, s.head_dim, s.width);
  return std::make_unique<FrameDitTopology>(s);
}

std::unique_ptr<Passes> FrameDit::make_passes(const std::shared_ptr<Backend>& backend,
                                              int context) const {
  const int64_t bytes = int64_t{3} * sizes_.image_height * sizes_.image_width;
  return std::make_unique<FrameDitPasses>(*this, backend, bytes, samplers_, context);
}

}  // namespace rtfm
