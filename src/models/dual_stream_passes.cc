// SPDX-License-Identifier: Apache-2.0
// The sizes of a dual_stream model from its manifest, and its passes over frames.
#include "src/check.h"
#include "src/models/dual_stream.h"

namespace rtfm {
namespace {

class DualStreamTopology final : public Topology {
 public:
  explicit DualStreamTopology(const DualStreamSizes& sizes) : s_(sizes) {}

  Shapes tensors() const override;
  std::unique_ptr<Network> build(const Manifest&, const Weights& weights) const override {
    return std::make_unique<DualStream>(s_, weights);
  }

 private:
  void add_block(const std::string& name, Shapes& shapes) const;

  DualStreamSizes s_;
};

void DualStreamTopology::add_block(const std::string& name, Shapes& shapes) const {
  const int64_t width = s_.width, mlp = s_.mlp, dim = s_.head_dim;
  shapes[name + "qkv.weight"] = {3 * width, width};
  shapes[name + "q_gain"] = {dim};
  shapes[name + "k_gain"] = {dim};
  shapes[name + "out.weight"] = {width, width};
  shapes[name + "up.weight"] = {mlp, width};
  shapes[name + "down.weight"] = {width, mlp};
}

Shapes DualStreamTopology::tensors() const {
  const int64_t width = s_.width, dim = s_.head_dim, area = s_.area();
  Shapes shapes{{"reader.in.weight", {width, 9 * area}},
                {"writer.in.weight", {width, 6 * area}},
                {"out.weight", {3 * area, width}}};
  for (int layer = 0; layer < s_.layers; ++layer) {
    const std::string block = ".blocks." + std::to_string(layer) + ".";
    const std::string reader = "reader" + block, writer = "writer" + block;
    add_block(reader, shapes);
    shapes[reader + "page_kv.weight"] = {2 * width, width};
    shapes[reader + "page_k_gain"] = {dim};
    add_block(writer, shapes);
    shapes[writer + "cross_q.weight"] = {width, width};
    shapes[writer + "cross_q_gain"] = {dim};
    shapes[writer + "cross_out.weight"] = {width, width};
  }
  return shapes;
}

class DualStreamPasses final : public Passes {
 public:
  DualStreamPasses(const DualStream& network, const std::shared_ptr<Backend>& backend,
                   int64_t bytes, int context)
      : Passes(backend, bytes),
        network_(network),
        workspace_(network.make_workspace(backend, context, inputs())) {}

  void write(int pages, int) override {
    network_.write(*backend_, workspace_, pages);
    unpatchify(*backend_, workspace_.frame, network_.sizes().patch, picture());
  }
  void read(int) override { network_.read(*backend_, workspace_, picture()); }

 private:
  Picture picture() const {
    return {image().data(), network_.sizes().image_height, network_.sizes().image_width};
  }

  const DualStream& network_;
  DualStream::Workspace workspace_;
};

// The network's answer is the frame: a schedule could only spoil it.
void check_samplers(const Manifest& m) {
  const auto one = m.samplers.find(1);
  bool plain = m.samplers.size() == 1 && one != m.samplers.end();
  if (plain) plain = one->second[0].a == 0 && one->second[0].b == 1 && one->second[0].c == 0;
  check<ModelError>(plain,
                    "manifest samplers: expected {\"1\": [[0, 0, 1, 0]]} for a family "
                    "without noise, got another table");
}

}  // namespace

std::unique_ptr<Topology> open_dual_stream(const Section& root, Manifest& m) {
  m = parse_manifest(
      root, {"patch", "width", "layers", "heads", "head_dim", "mlp", "norm_eps", "qk_norm_eps"}, 1);
  const DualStreamSizes s{.image_height = m.image_height,
                          .image_width = m.image_width,
                          .patch = root.size("patch", 1, 64),
                          .width = root.size("width", 8, 8192),
                          .layers = root.size("layers", 1, 128),
                          .heads = root.size("heads", 1, 1024),
                          .head_dim = root.size("head_dim", 8, 256),
                          .mlp = root.size("mlp", 1, 65536),
                          .norm_eps = float(root.number("norm_eps", 1e-12, 1)),
                          .qk_norm_eps = float(root.number("qk_norm_eps", 1e-12, 1))};
  check_patches(m, s.patch);
  check_heads(root, s.heads, s.head_dim, s.width);
  check_samplers(m);
  m.posed_pages = true;
  return std::make_unique<DualStreamTopology>(s);
}

std::unique_ptr<Passes> DualStream::make_passes(const std::shared_ptr<Backend>& backend,
                                                int context) const {
  const int64_t bytes = int64_t{3} * sizes_.image_height * sizes_.image_width;
  return std::make_unique<DualStreamPasses>(*this, backend, bytes, context);
}

}  // namespace rtfm
