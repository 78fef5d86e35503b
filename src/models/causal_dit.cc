// SPDX-License-Identifier: Apache-2.0
#include "src/models/causal_dit.h"

#include <algorithm>
#include <cmath>

#include "src/check.h"

namespace rtfm {
namespace {

constexpr float kLimit = 3;    // latents are squashed to ±3 before they are decoded
constexpr int64_t kLine = 64;  // bytes: each page and each state begins on a cache line

std::string block_name(int layer) { return "blocks." + std::to_string(layer); }

Tensor row_of(const Matrix& matrix, int64_t row) {
  Tensor t = matrix.view();
  t.data = static_cast<float*>(t.data) + row * t.stride;
  t.rows = 1;
  return t;
}

}  // namespace

ContextSight sight_of(const Sequence& window, const Shot& shot) {
  const int64_t frame = int64_t(shot.frame);
  const int count = int(shot.context.size());
  ContextSight sight{.first_global = count};
  for (int i = 0; i < count; ++i) {  // in the order of sequence_context
    const int64_t id = shot.context[size_t(i)].id;
    if (id >= frame - window.recent) sight.local = i + 1;
    if (id % window.every == 0 && id > frame - window.within)
      sight.first_global = std::min(sight.first_global, i);
  }
  sight.global = count - sight.first_global;
  return sight;
}

CausalDit::CausalDit(const CausalDitSizes& sizes, const Manifest& manifest, const Weights& weights)
    : sizes_(sizes),
      samplers_(manifest.samplers),
      in_(weights, "in"),
      out_(weights, "out"),
      control_in_(weights, "control.0"),
      control_out_(weights, "control.2"),
      codec_(sizes.codec, weights),
      cos_(weights.file.to_float("rope.cos")),
      sin_(weights.file.to_float("rope.sin")),
      turning_(weights.file.to_float("rope.time")) {
  const auto& controlled = sizes_.control_layers;
  for (int l = 0; l < sizes_.layers; ++l) {
    const std::string name = block_name(l);
    blocks_.push_back({.qkv = Linear(weights, name + ".qkv"),
                       .out = Linear(weights, name + ".out"),
                       .up = Linear(weights, name + ".up"),
                       .down = Linear(weights, name + ".down"),
                       .fuse = nullptr});
    const auto found = std::find(controlled.begin(), controlled.end(), l);
    if (found == controlled.end()) continue;
    blocks_.back().fuse = std::make_unique<Fuse>(Fuse{.x = Linear(weights, name + ".fuse.x"),
                                                      .c = Linear(weights, name + ".fuse.c"),
                                                      .out = Linear(weights, name + ".fuse.out"),
                                                      .row = found - controlled.begin()});
  }
  if (sizes_.value_residual) value_mix_ = weights.file.to_float("value_mix");
  build_modulation(weights);
  const size_t most = size_t(std::max(sizes_.width, sizes_.head_dim));
  ones_ = upload(weights.backend, std::vector<float>(most, 1.f));
  zeros_ = upload(weights.backend, std::vector<float>(most, 0.f));
}

// What is stored, but scales with their 1 +.
void CausalDit::build_modulation(const Weights& weights) {
  std::vector<float>& all = weights.numbers("modulation");
  const size_t width = size_t(sizes_.width);
  for (size_t i = 0; i < all.size(); ++i) {
    const size_t which = i / width % 6;  // shift1, scale1, gate1, shift2, scale2, gate2
    if (which == 1 || which == 4) all[i] += 1.f;
  }
  modulation_ = upload(weights.backend, all);
  std::vector<float> final = weights.file.to_float("final.modulation");
  for (size_t i = 0; i < final.size(); ++i)
    if (i / width % 2 == 1) final[i] += 1.f;
  final_modulation_ = upload(weights.backend, final);
}

int64_t CausalDit::page_bytes(const Backend& backend) const {
  return round_up(
      sizes_.layers * 2 * sizes_.key_size() * sizes_.tokens() * size_of(backend.operand_dtype()),
      kLine);
}

int64_t CausalDit::state_bytes(const Backend& backend) const {
  Room nowhere(backend, nullptr);
  const TaehvDecoding decoder(nowhere, sizes_.codec, backend.operand_dtype());
  return round_up(decoder.memory.bytes(), kLine);
}

int64_t CausalDit::time_index(float t) const {
  const auto it = std::find(sizes_.sigmas.begin(), sizes_.sigmas.end(), t);
  check<Error>(it != sizes_.sigmas.end(), "[causal_dit] no modulation for sigma ", t);
  return it - sizes_.sigmas.begin();
}

CausalDit::Modulation CausalDit::modulation(int64_t time, int layer) const {
  const int64_t width = sizes_.width;
  const float* m = floats(modulation_) + (time * sizes_.layers + layer) * 6 * width;
  return {m, m + width, m + 2 * width, m + 3 * width, m + 4 * width, m + 5 * width};
}

CausalWorkspace CausalDit::make_workspace(const std::shared_ptr<Backend>& backend,
                                          const StepInputs* inputs) const {
  const CausalDitSizes& s = sizes_;
  const DType operand = backend->operand_dtype(), f32 = DType::f32;
  const auto tokens = [&](int64_t cols, DType dtype) {
    return Matrix(backend, s.tokens(), cols, dtype);
  };
  const auto row = [&](int64_t cols, DType dtype) { return Matrix(backend, 1, cols, dtype); };
  const int64_t angles = s.tokens() * (s.head_dim / 2);
  CausalWorkspace w{
      .x = tokens(s.token_size(), f32),
      .x_operand = tokens(s.token_size(), operand),
      .velocity = tokens(s.token_size(), f32),
      .h = tokens(s.width, f32),
      .normed = tokens(s.width, operand),
      .fused = tokens(s.width, operand),
      .first = tokens(s.qkv_size(), f32),
      .qkv = tokens(s.qkv_size(), f32),
      .attended = tokens(s.query_size(), operand),
      .hidden = tokens(s.mlp, operand),
      .action = row(s.actions, f32),
      .action_operand = row(s.actions, operand),
      .control_hidden = row(s.control_mlp, operand),
      .control_operand = row(s.width, operand),
      .control = row(s.width, f32),
      .fuse = Matrix(backend, std::max<int64_t>(1, int64_t(s.control_layers.size())), s.width, f32),
      .cos = Buffer(backend, angles * 4),
      .sin = Buffer(backend, angles * 4),
      .host_cos = std::vector<float>(size_t(angles)),
      .host_sin = std::vector<float>(size_t(angles)),
      .query = Buffer(backend, backend->query_bytes(s.heads, s.tokens(), s.head_dim)),
      .context = {},
      .slot_bytes = backend->slot_bytes(s.kv_heads, s.tokens(), s.head_dim),
      .slots = 1 + std::max(s.window.recent, s.window.within / s.window.every),
      .codec = TaehvScratch(backend, s.codec),
      .inputs = inputs};
  w.context = Buffer(backend, s.layers * w.slots * w.slot_bytes);
  return w;
}

void CausalDit::prepare(Backend& backend, CausalWorkspace& w, const Shot& shot) const {
  backend.upload(w.action.view().data, shot.actions.data(), int64_t(shot.actions.size_bytes()));
  const size_t angles = turning_.size();
  for (size_t i = 0; i < cos_.size(); ++i) {
    const double angle = double(shot.frame) * double(turning_[i % angles]);
    const size_t at = i / angles * 2 * angles + i % angles;
    w.host_cos[at] = cos_[i], w.host_sin[at] = sin_[i];
    w.host_cos[at + angles] = float(std::cos(angle)),
                    w.host_sin[at + angles] = float(std::sin(angle));
  }
  backend.upload(w.cos.data(), w.host_cos.data(), w.cos.bytes());
  backend.upload(w.sin.data(), w.host_sin.data(), w.sin.bytes());
}

void CausalDit::tokenize(Backend& backend, const CausalWorkspace& w) const {
  const Tensor &latent = w.codec.latent, &x = w.x;
  backend.group({.grid = floats(w.codec.latent),
                 .tokens = static_cast<float*>(x.data),
                 .grid_stride = latent.stride,
                 .tokens_stride = x.stride,
                 .height = sizes_.codec.rows,
                 .width = sizes_.codec.cols,
                 .channels = sizes_.codec.latent,
                 .patch = sizes_.patch});
  update(backend, w.sampler_state(), 1, 0, 0, 0);
}

void CausalDit::untokenize(Backend& backend, const CausalWorkspace& w) const {
  const Tensor& grid = w.codec.squashed;
  backend.ungroup({.tokens = floats(w.x),
                   .grid = grid.data,
                   .tokens_stride = w.x.view().stride,
                   .grid_stride = grid.stride,
                   .height = sizes_.codec.rows,
                   .width = sizes_.codec.cols,
                   .channels = sizes_.codec.latent,
                   .patch = sizes_.patch,
                   .limit = kLimit});
}

void CausalDit::control(Backend& backend, const CausalWorkspace& w) const {
  update(backend, {w.action, w.action_operand, w.action, w.inputs}, 1, 0, 0, 0);
  control_in_.silu(backend, w.action_operand, w.control_hidden);
  control_out_(backend, w.control_hidden, w.control);
  rms_modulate(backend, w.control, floats(ones_), floats(zeros_), sizes_.eps, w.control_operand);
  for (const Block& block : blocks_)
    if (block.fuse) block.fuse->c(backend, w.control_operand, row_of(w.fuse, block.fuse->row));
}

void CausalDit::gather(Backend& backend, const CausalWorkspace& w,
                       const ContextSight& sight) const {
  for (int first = 0, last = 0; first < sizes_.layers; first = last) {
    const bool global = sizes_.global(first);
    while (last < sizes_.layers && sizes_.global(last) == global) ++last;
    backend.gather({.inputs = w.inputs,
                    .context = w.slot(first),
                    .first_page = global ? sight.first_global : 0,
                    .pages = global ? sight.global : sight.local,
                    .slots = w.slots,
                    .slot_bytes = w.slot_bytes,
                    .first_layer = first,
                    .layers = last - first,
                    .tokens = sizes_.tokens(),
                    .heads = sizes_.kv_heads,
                    .dim = sizes_.head_dim,
                    .camera_dims = 0});
  }
}

// The layer's q, k and v, values mixed with those of the first layer.
const Matrix& CausalDit::keys_and_values(Backend& backend, const CausalWorkspace& w,
                                         int layer) const {
  const Matrix& qkv = layer == 0 ? w.first : w.qkv;
  blocks_[size_t(layer)].qkv(backend, w.normed, qkv);
  if (layer == 0 || value_mix_.empty()) return qkv;
  const int64_t at = sizes_.query_size() + sizes_.key_size();
  const float mix = value_mix_[size_t(layer)];
  backend.sampler({.x = static_cast<float*>(qkv.view().data) + at,
                   .x0 = floats(w.first) + at,
                   .operand = nullptr,
                   .inputs = w.inputs,
                   .x_stride = qkv.view().stride,
                   .x0_stride = w.first.view().stride,
                   .operand_stride = 0,
                   .rows = sizes_.tokens(),
                   .cols = sizes_.key_size(),
                   .a = 1 - mix,
                   .b = mix,
                   .c = 0,
                   .step = 0});
  return qkv;
}

void CausalDit::split(Backend& backend, const CausalWorkspace& w, int layer,
                      const StepInputs* page) const {
  const Matrix& matrix = keys_and_values(backend, w, layer);
  const float* qkv = floats(matrix);
  backend.qkv_split({.q = qkv,
                     .k = qkv + sizes_.query_size(),
                     .v = qkv + sizes_.query_size() + sizes_.key_size(),
                     .q_gain = floats(ones_),
                     .k_gain = floats(ones_),
                     .cos = floats(w.cos),
                     .sin = floats(w.sin),
                     .query = w.query.data(),
                     .slot = w.slot(layer),
                     .inputs = page,
                     .layer = layer,
                     .stride = matrix.view().stride,
                     .tokens = sizes_.tokens(),
                     .heads = sizes_.heads,
                     .kv_heads = sizes_.kv_heads,
                     .dim = sizes_.head_dim,
                     .rope = sizes_.head_dim / 2,
                     .eps = sizes_.eps});
}

void CausalDit::attend(Backend& backend, const CausalWorkspace& w, int layer,
                       const ContextSight& sight) const {
  backend.attention({.q = w.query.data(),
                     .context = w.slot(layer),
                     .y = w.attended.view().data,
                     .y_stride = w.attended.view().stride,
                     .slots = 1 + (sizes_.global(layer) ? sight.global : sight.local),
                     .tokens = sizes_.tokens(),
                     .heads = sizes_.heads,
                     .kv_heads = sizes_.kv_heads,
                     .dim = sizes_.head_dim});
}

// The residuals of a block, after attention.
void CausalDit::finish(Backend& backend, const CausalWorkspace& w, int layer,
                       const Modulation& m) const {
  const Block& block = blocks_[size_t(layer)];
  block.out.add_gated(backend, w.attended, m.gate1, w.h);
  if (block.fuse) {
    rms_modulate(backend, w.h, floats(ones_), floats(zeros_), sizes_.eps, w.normed);
    const Tensor added = row_of(w.fuse, block.fuse->row);
    block.fuse->x.silu_of_sum(backend, w.normed, static_cast<const float*>(added.data), w.fused);
    block.fuse->out.add_gated(backend, w.fused, nullptr, w.h);
  }
  rms_modulate(backend, w.h, m.scale2, m.shift2, sizes_.eps, w.normed);
  block.up.silu(backend, w.normed, w.hidden);
  block.down.add_gated(backend, w.hidden, m.gate2, w.h);
}

void CausalDit::write(Backend& backend, const CausalWorkspace& w, float t,
                      const ContextSight& sight) const {
  const int64_t time = time_index(t);
  in_(backend, w.x_operand, w.h);
  for (int l = 0; l < sizes_.layers; ++l) {
    const Modulation m = modulation(time, l);
    rms_modulate(backend, w.h, m.scale1, m.shift1, sizes_.eps, w.normed);
    split(backend, w, l, nullptr);
    attend(backend, w, l, sight);
    finish(backend, w, l, m);
  }
  const float* final = floats(final_modulation_) + time * 2 * sizes_.width;
  rms_modulate_silu(backend, w.h, final + sizes_.width, final, sizes_.eps, w.normed);
  out_(backend, w.normed, w.velocity);
}

void CausalDit::read(Backend& backend, const CausalWorkspace& w, const ContextSight& sight) const {
  const int64_t time = time_index(0);
  in_(backend, w.x_operand, w.h);
  for (int l = 0; l < sizes_.layers; ++l) {
    const Modulation m = modulation(time, l);
    rms_modulate(backend, w.h, m.scale1, m.shift1, sizes_.eps, w.normed);
    split(backend, w, l, w.inputs);
    if (l + 1 == sizes_.layers) break;  // the last K/V end the pass
    attend(backend, w, l, sight);
    finish(backend, w, l, m);
  }
}

}  // namespace rtfm
