// SPDX-License-Identifier: Apache-2.0
#include "src/models/vit_codec.h"

#include "src/check.h"

namespace rtfm {

VitSizes read_vit(const Section& codec, const Manifest& m, int channels) {
  codec.has_exactly({"kind", "patch", "width", "encoder_layers", "decoder_layers", "heads",
                     "head_dim", "mlp", "rope", "eps"});
  codec.is("kind", "vit");
  const VitSizes s{.image_height = m.image_height,
                   .image_width = m.image_width,
                   .patch = codec.size("patch", 1, 64),
                   .channels = channels,
                   .width = codec.size("width", 8, 8192),
                   .encoder_layers = codec.size("encoder_layers", 1, 128),
                   .decoder_layers = codec.size("decoder_layers", 1, 128),
                   .heads = codec.size("heads", 1, 1024),
                   .mlp = codec.size("mlp", 1, 65536),
                   .rope = codec.size("rope", 1, 128),
                   .eps = float(codec.number("eps", 1e-12, 1))};
  const int dim = codec.size("head_dim", 8, 256);
  check_patches(m, s.patch);
  check_heads(codec, s.heads, dim, s.width);
  check<ModelError>(2 * s.rope <= dim, codec.label("rope"), "expected at most ", dim / 2,
                    " pairs, got ", s.rope);
  return s;
}

void add_vit_tensors(const VitSizes& s, Shapes& shapes) {
  const int64_t width = s.width, mlp = s.mlp;
  const auto linear = [&](const std::string& name, int64_t rows, int64_t cols) {
    shapes[name + ".weight"] = {rows, cols};
    shapes[name + ".bias"] = {rows};
  };
  const auto tower = [&](const std::string& name, int layers, int64_t from, int64_t to) {
    linear(name + "in", width, from);
    linear(name + "out", to, width);
    for (int i = 0; i < layers; ++i) {
      const std::string block = name + "blocks." + std::to_string(i) + ".";
      linear(block + "qkv", 3 * width, width);
      linear(block + "out", width, width);
      linear(block + "up", mlp, width);
      linear(block + "down", width, mlp);
    }
  };
  tower("codec.encoder.", s.encoder_layers, s.token_size(), s.channels);
  tower("codec.decoder.", s.decoder_layers, s.channels, s.token_size());
  shapes["codec.rope.cos"] = shapes["codec.rope.sin"] = {s.tokens(), s.rope};
}

VitCodec::VitCodec(const VitSizes& sizes, const Weights& weights)
    : sizes_(sizes),
      encoder_(make_tower(weights, "codec.encoder.", sizes.encoder_layers)),
      decoder_(make_tower(weights, "codec.decoder.", sizes.decoder_layers)),
      attention_(weights, "codec.rope",
                 {sizes.tokens(), sizes.heads, sizes.width / sizes.heads, sizes.rope}),
      ones_(upload(weights.backend, std::vector<float>(size_t(sizes.width), 1.f))),
      zeros_(upload(weights.backend, std::vector<float>(size_t(sizes.width), 0.f))) {}

VitCodec::Tower VitCodec::make_tower(const Weights& weights, const std::string& name, int layers) {
  Tower tower{
      .in = Linear(weights, name + "in"), .out = Linear(weights, name + "out"), .blocks = {}};
  for (int i = 0; i < layers; ++i) {
    const std::string block = name + "blocks." + std::to_string(i) + ".";
    tower.blocks.push_back({.qkv = Linear(weights, block + "qkv"),
                            .out = Linear(weights, block + "out"),
                            .up = Linear(weights, block + "up"),
                            .down = Linear(weights, block + "down")});
  }
  return tower;
}

VitCodec::Workspace VitCodec::make_workspace(const std::shared_ptr<Backend>& backend) const {
  const auto matrix = [&](int64_t cols, DType dtype) {
    return Matrix(backend, sizes_.tokens(), cols, dtype);
  };
  const DType operand = backend->operand_dtype();
  return {.pixels = matrix(sizes_.token_size(), operand),
          .patches = matrix(sizes_.token_size(), DType::f32),
          .latent = matrix(sizes_.channels, DType::f32),
          .latent_operand = matrix(sizes_.channels, operand),
          .h = matrix(sizes_.width, DType::f32),
          .normed = matrix(sizes_.width, operand),
          .qkv = matrix(3 * sizes_.width, DType::f32),
          .attended = matrix(sizes_.width, operand),
          .hidden = matrix(sizes_.mlp, operand),
          .attention = attention_.make_workspace(backend)};
}

void VitCodec::norm(Backend& backend, const Workspace& w) const {
  layer_modulate(backend, w.h, reinterpret_cast<const float*>(ones_.data()),
                 reinterpret_cast<const float*>(zeros_.data()), sizes_.eps, w.normed);
}

void VitCodec::run(Backend& backend, const Workspace& w, const Tower& tower, const Tensor& x,
                   const Tensor& y) const {
  tower.in(backend, x, w.h);
  for (const Block& block : tower.blocks) {
    norm(backend, w);
    block.qkv(backend, w.normed, w.qkv);
    attention_(backend, w.attention, w.qkv, w.attended);
    block.out.add_gated(backend, w.attended, nullptr, w.h);
    norm(backend, w);
    block.up.gelu_erf(backend, w.normed, w.hidden);
    block.down.add_gated(backend, w.hidden, nullptr, w.h);
  }
  norm(backend, w);
  tower.out(backend, w.normed, y);
}

void VitCodec::encode(Backend& backend, const Workspace& w, const Picture& picture) const {
  patchify(backend, picture, sizes_.patch, w.pixels);
  run(backend, w, encoder_, w.pixels, w.latent);
}

void VitCodec::decode(Backend& backend, const Workspace& w, const Picture& picture) const {
  run(backend, w, decoder_, w.latent_operand, w.patches);
  unpatchify(backend, w.patches, sizes_.patch, picture);
}

}  // namespace rtfm
