// SPDX-License-Identifier: Apache-2.0
// The sizes of a causal_dit model from its manifest, and its passes over frames.
#include <algorithm>
#include <cmath>

#include "src/check.h"
#include "src/models/causal_dit.h"
#include "src/sequence.h"

namespace rtfm {
namespace {

class CausalDitTopology final : public Topology {
 public:
  explicit CausalDitTopology(const CausalDitSizes& sizes) : s_(sizes) {}

  Shapes tensors() const override;
  std::unique_ptr<Network> build(const Manifest& m, const Weights& weights) const override {
    return std::make_unique<CausalDit>(s_, m, weights);
  }

 private:
  CausalDitSizes s_;
};

Shapes CausalDitTopology::tensors() const {
  const int64_t width = s_.width, mlp = s_.mlp, token = s_.token_size(), layers = s_.layers;
  const int64_t times = int64_t(s_.sigmas.size()), angles = s_.head_dim / 4;
  Shapes shapes{
      {"in.weight", {width, token}},
      {"out.weight", {token, width}},
      {"out.bias", {token}},
      {"control.0.weight", {s_.control_mlp, s_.actions}},
      {"control.2.weight", {width, s_.control_mlp}},
      {"modulation", {times, layers, 6, width}},
      {"final.modulation", {times, 2, width}},
      {"rope.cos", {s_.tokens(), angles}},
      {"rope.sin", {s_.tokens(), angles}},
      {"rope.time", {angles}},
  };
  if (s_.value_residual) shapes["value_mix"] = {layers};
  for (int layer = 0; layer < s_.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    shapes[block + "qkv.weight"] = {s_.qkv_size(), width};
    shapes[block + "out.weight"] = {width, s_.query_size()};
    shapes[block + "up.weight"] = {mlp, width};
    shapes[block + "down.weight"] = {width, mlp};
  }
  for (const int layer : s_.control_layers)
    for (const char* part : {"x", "c", "out"})
      shapes["blocks." + std::to_string(layer) + ".fuse." + part + ".weight"] = {width, width};
  add_taehv_tensors(s_.codec, shapes);
  return shapes;
}

class CausalDitPasses final : public Passes {
 public:
  CausalDitPasses(const CausalDit& network, const std::shared_ptr<Backend>& backend, int64_t bytes,
                  const std::map<int, std::vector<SamplerRow>>& samplers)
      : Passes(backend, bytes),
        network_(network),
        samplers_(samplers),
        workspace_(network.make_workspace(backend, inputs())) {}

  void prepare(const Shot& shot, std::byte* page, int steps) override {
    Passes::prepare(shot, page, steps);
    sight_ = sight_of(network_.sizes().window, shot);
    follows_ = shot.state != nullptr;
    network_.prepare(*backend_, workspace_, shot);
  }

  // Layers see different pages, and which ones changes from frame to frame.
  bool recordable() const override { return false; }

  void write(int, int steps) override {
    const CausalDit& n = network_;
    n.control(*backend_, workspace_);
    n.gather(*backend_, workspace_, sight_);
    sample(*backend_, workspace_.sampler_state(), samplers_.at(steps),
           [&](float t) { n.write(*backend_, workspace_, t, sight_); });
    decode();
  }

  void read(int) override {
    const CausalDit& n = network_;
    n.codec().encode(*backend_, workspace_.codec, image().data());
    n.tokenize(*backend_, workspace_);
    n.control(*backend_, workspace_);
    n.gather(*backend_, workspace_, sight_);
    n.read(*backend_, workspace_, sight_);
    decode();  // for what it remembers
    remember();
  }

  void keep(int) override {  // the context and the tokens are those of the frame written last
    network_.read(*backend_, workspace_, sight_);
    remember();
  }

 private:
  // The images of the clean tokens, which follow those of the frame before.
  void decode() {
    TaehvScratch& codec = workspace_.codec;
    network_.untokenize(*backend_, workspace_);
    if (follows_) {
      codec.decoder.memory.load(*backend_, inputs());
    } else {
      codec.decoder.memory.clear();
      for (int i = 0; i < network_.sizes().codec.warmup; ++i)
        network_.codec().decode(*backend_, codec, image().data());
    }
    network_.codec().decode(*backend_, codec, image().data());
  }
  void remember() { workspace_.codec.decoder.memory.store(*backend_, inputs()); }

  const CausalDit& network_;
  const std::map<int, std::vector<SamplerRow>>& samplers_;
  CausalWorkspace workspace_;
  ContextSight sight_;
  bool follows_ = false;  // a frame was before it
};

bool boolean(const Section& root, std::string_view key) {
  const bool* value = root.at(key).as<bool>();
  if (!value) fail<ModelError>(root.label(key), "expected a boolean, got ", root.at(key).type());
  return *value;
}

std::vector<int> control_layers(const Section& root, int layers) {
  const size_t count = root.array("control_layers").size();
  std::vector<int> result;
  for (const double layer : root.numbers("control_layers", count, 0, layers - 1)) {
    check<ModelError>(layer == std::floor(layer) && (result.empty() || layer > result.back()),
                      root.label("control_layers"), "expected rising integers, got ", layer);
    result.push_back(int(layer));
  }
  return result;
}

std::vector<float> sigmas(const Section& root, const Manifest& m) {
  const size_t count = root.array("sigmas").size();
  const std::vector<double> numbers = root.numbers("sigmas", count, 0, 1);
  check<ModelError>(count >= 2 && numbers.back() == 0 &&
                        std::is_sorted(numbers.rbegin(), numbers.rend(), std::less_equal<>()),
                    root.label("sigmas"), "expected numbers falling to 0");
  const std::vector<float> result(numbers.begin(), numbers.end());
  for (const auto& [steps, rows] : m.samplers)
    for (const SamplerRow& row : rows)
      check<ModelError>(std::find(result.begin(), result.end(), row.t) != result.end(),
                        "manifest samplers: expected times that are in sigmas, got ", row.t);
  return result;
}

void read_window(const Section& root, CausalDitSizes& s) {
  const Section window = root.section("window");
  window.has_exactly({"local_frames", "global_frames", "dilation", "period", "offset"});
  s.period = window.size("period", 1, 128), s.offset = window.size("offset", 0, s.period - 1);
  s.window = {.recent = window.size("local_frames", 2, kMaxPages + 1) - 1,
              .every = window.size("dilation", 1, 1 << 16),
              .within = window.size("global_frames", 1, 1 << 20)};
  check<ModelError>(s.window.within % s.window.every == 0, window.label("global_frames"),
                    "expected a multiple of dilation, ", s.window.every, ", got ", s.window.within);
  check<ModelError>(window_size(s.window) <= kMaxPages, "manifest window: expected at most ",
                    kMaxPages, " frames, got ", window_size(s.window));
}

void check_sizes(const CausalDitSizes& s, const Manifest& m) {
  check<ModelError>(s.tokens() <= kMaxTokens, "manifest rows: expected at most ", kMaxTokens,
                    " tokens, got ", s.tokens());
  check<ModelError>(s.head_dim % 8 == 0, "manifest head_dim: expected a multiple of 8, got ",
                    s.head_dim);
  check<ModelError>(s.heads % s.kv_heads == 0,
                    "manifest kv_heads: expected a divisor of heads = ", s.heads, ", got ",
                    s.kv_heads);
  check<ModelError>(m.image_height == s.codec.height() && m.image_width == s.codec.width(),
                    "manifest image: expected ", s.codec.height(), "x", s.codec.width(),
                    " as rows, cols, patch and codec make it, got ", m.image_height, "x",
                    m.image_width);
  check<ModelError>(m.images == s.codec.images(), "manifest images: expected ", s.codec.images(),
                    " as the codec makes, got ", m.images);
}

}  // namespace

std::unique_ptr<Topology> open_causal_dit(const Section& root, Manifest& m) {
  m = parse_manifest(root,
                     {"images", "actions", "rows", "cols", "patch", "width", "layers", "heads",
                      "kv_heads", "head_dim", "mlp", "control_layers", "control_mlp",
                      "value_residual", "eps", "sigmas", "window", "codec"},
                     1);
  CausalDitSizes s{.rows = root.size("rows", 1, 1024),
                   .cols = root.size("cols", 1, 1024),
                   .patch = root.size("patch", 1, 16),
                   .width = root.size("width", 8, 8192),
                   .layers = root.size("layers", 1, 128),
                   .heads = root.size("heads", 1, 1024),
                   .kv_heads = root.size("kv_heads", 1, 1024),
                   .head_dim = root.size("head_dim", 8, 256),
                   .mlp = root.size("mlp", 1, 65536),
                   .control_layers = {},
                   .control_mlp = root.size("control_mlp", 1, 65536),
                   .actions = int(m.actions.size()),
                   .value_residual = boolean(root, "value_residual"),
                   .eps = float(root.number("eps", 0, 1)),
                   .sigmas = sigmas(root, m),
                   .period = 1,
                   .offset = 0,
                   .window = {},
                   .codec = parse_taehv(root.section("codec"))};
  s.control_layers = control_layers(root, s.layers);
  s.codec.rows = int64_t{s.rows} * s.patch, s.codec.cols = int64_t{s.cols} * s.patch;
  read_window(root, s);
  m.images = root.size("images", 1, 64);
  m.sequence = s.window;
  check_sizes(s, m);
  return std::make_unique<CausalDitTopology>(s);
}

std::unique_ptr<Passes> CausalDit::make_passes(const std::shared_ptr<Backend>& backend, int) const {
  const int64_t bytes = sizes_.codec.images() * 3 * sizes_.codec.height() * sizes_.codec.width();
  return std::make_unique<CausalDitPasses>(*this, backend, bytes, samplers_);
}

}  // namespace rtfm
