// SPDX-License-Identifier: Apache-2.0
// The sizes of an st_dit model from its manifest, and its passes over frames.
#include <algorithm>

#include "src/check.h"
#include "src/models/st_dit.h"
#include "src/models/time_features.h"

namespace rtfm {
namespace {

class StDitTopology final : public Topology {
 public:
  explicit StDitTopology(const StDitSizes& sizes) : s_(sizes) {}

  Shapes tensors() const override;
  std::unique_ptr<Network> build(const Manifest& m, const Weights& weights) const override {
    return std::make_unique<StDit>(s_, m, weights);
  }

 private:
  StDitSizes s_;
};

Shapes StDitTopology::tensors() const {
  const int64_t width = s_.width, mlp = s_.mlp, token = s_.token_size(), pairs = s_.head_dim() / 2;
  Shapes shapes{
      {"in.weight", {width, token}},
      {"in.bias", {width}},
      {"time.0.weight", {width, kTimeFeatures}},
      {"time.0.bias", {width}},
      {"time.2.weight", {width, width}},
      {"time.2.bias", {width}},
      {"action.weight", {width, s_.actions}},
      {"final.modulation.weight", {2 * width, width}},
      {"final.modulation.bias", {2 * width}},
      {"out.weight", {token, width}},
      {"out.bias", {token}},
      {"rope.cos", {s_.tokens(), pairs}},
      {"rope.sin", {s_.tokens(), pairs}},
      {"rope.time", {pairs}},
  };
  for (int layer = 0; layer < s_.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    shapes[block + "modulation.weight"] = {12 * width, width};
    shapes[block + "modulation.bias"] = {12 * width};
    for (const std::string half : {"spatial.", "temporal."}) {
      shapes[block + half + "qkv.weight"] = {3 * width, width};
      shapes[block + half + "out.weight"] = {width, width};
      shapes[block + half + "out.bias"] = {width};
      shapes[block + half + "up.weight"] = {mlp, width};
      shapes[block + half + "up.bias"] = {mlp};
      shapes[block + half + "down.weight"] = {width, mlp};
      shapes[block + half + "down.bias"] = {width};
    }
  }
  add_vit_tensors(s_.codec, shapes);
  return shapes;
}

class StDitPasses final : public Passes {
 public:
  StDitPasses(const StDit& network, const std::shared_ptr<Backend>& backend, int64_t bytes,
              int context)
      : Passes(backend, bytes),
        network_(network),
        workspace_(network.make_workspace(backend, context, inputs())),
        angles_(size_t((1 + context) * network.sizes().head_dim() / 2)) {}

  // The angles to itself and to the frames of the pages, too.
  void prepare(const Shot& shot, std::byte* page, int steps) override {
    Passes::prepare(shot, page, steps);
    const int64_t pairs = network_.sizes().head_dim() / 2, rows = 1 + int64_t(shot.context.size());
    const auto send = [&](const float* table, const Buffer& to) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t frames = i ? int64_t(shot.frame) - shot.context[size_t(i - 1)].id : 0;
        check<Error>(frames >= 0 && frames < network_.sizes().window,
                     "[st_dit] expected pages of the window, got one ", frames, " frames before");
        std::copy_n(table + frames * pairs, pairs, angles_.begin() + i * pairs);
      }
      backend_->upload(to.data(), angles_.data(), rows * pairs * 4);
    };
    send(network_.cos(), workspace_.cos);
    send(network_.sin(), workspace_.sin);
  }

  void write(int pages, int steps) override {
    network_.modulate(*backend_, workspace_, steps, inputs()->actions);
    int row = 0;
    sample(*backend_, workspace_.sampler_state(), network_.sampler(steps),
           [&](float) { network_.write(*backend_, workspace_, row++, pages); });
    network_.decode(*backend_, workspace_, picture());
  }

  void read(int pages) override {
    network_.encode(*backend_, workspace_, picture());
    network_.modulate(*backend_, workspace_, 0, inputs()->actions);
    keep(pages);
  }

  // Its latent and the modulation of the commit are where write or read left them.
  void keep(int pages) override {
    network_.save(*backend_, workspace_);
    network_.read(*backend_, workspace_, pages);
  }

  void renew(int pages) override {
    network_.load(*backend_, workspace_);
    network_.modulate(*backend_, workspace_, 0,
                      reinterpret_cast<const float*>(workspace_.actions.data()));
    network_.read(*backend_, workspace_, pages);
  }

 private:
  Picture picture() const {
    const VitSizes& s = network_.sizes().codec;
    return {image().data(), s.image_height, s.image_width};
  }

  const StDit& network_;
  StDit::Workspace workspace_;
  std::vector<float> angles_;  // [1 + context, head_dim / 2]
};

StDitSizes read_sizes(const Section& root, const Manifest& m) {
  const Section latent = root.section("latent");
  latent.has_exactly({"height", "width", "channels", "patch"});
  const int channels = latent.size("channels", 1, 1024);
  return {.codec = read_vit(root.section("codec"), m, channels),
          .height = latent.size("height", 1, 8192),
          .grid_width = latent.size("width", 1, 8192),
          .channels = channels,
          .patch = latent.size("patch", 1, 64),
          .width = root.size("width", 8, 8192),
          .layers = root.size("layers", 1, 128),
          .heads = root.size("heads", 1, 128),
          .mlp = root.size("mlp", 1, 65536),
          .actions = int(m.actions.size()),
          .window = root.size("window", 2, 1 + kMaxPages),
          .commit_time = float(root.number("commit_time", 0, 1e4)),
          .eps = float(root.number("eps", 1e-12, 1))};
}

void check_sizes(const StDitSizes& s, const Section& root) {
  check_heads(root, s.heads, root.size("head_dim", 8, 256), s.width);
  check<ModelError>(s.height * s.codec.patch == s.codec.image_height &&
                        s.grid_width * s.codec.patch == s.codec.image_width,
                    root.label("latent"), "expected the image over the codec's patch = ",
                    s.codec.image_height / s.codec.patch, "x", s.codec.image_width / s.codec.patch,
                    ", got ", s.height, "x", s.grid_width);
  check<ModelError>(s.height % s.patch == 0 && s.grid_width % s.patch == 0, root.label("latent"),
                    "expected sides that are multiples of ", s.patch, ", got ", s.height, "x",
                    s.grid_width);
}

}  // namespace

std::unique_ptr<Topology> open_st_dit(const Section& root, Manifest& m) {
  m = parse_manifest(root,
                     {"latent", "codec", "width", "layers", "heads", "head_dim", "mlp", "eps",
                      "window", "slide", "commit_time", "actions"},
                     1e4);
  const StDitSizes s = read_sizes(root, m);
  check_sizes(s, root);
  const std::string slide = root.text("slide");
  check<ModelError>(slide == "keep" || slide == "recompute", root.label("slide"),
                    "expected \"keep\" or \"recompute\", got ", in_quotes(slide));
  m.sequence = {.recent = s.window - 1, .renew = slide == "recompute"};
  return std::make_unique<StDitTopology>(s);
}

std::unique_ptr<Passes> StDit::make_passes(const std::shared_ptr<Backend>& backend,
                                           int context) const {
  const int64_t bytes = int64_t{3} * sizes_.codec.image_height * sizes_.codec.image_width;
  return std::make_unique<StDitPasses>(*this, backend, bytes, context);
}

}  // namespace rtfm
