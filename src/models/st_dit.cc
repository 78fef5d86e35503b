// SPDX-License-Identifier: Apache-2.0
#include "src/models/st_dit.h"

#include <algorithm>
#include <cmath>

#include "src/check.h"
#include "src/models/time_features.h"

namespace rtfm {
namespace {

// The first rows of a matrix.
Tensor first(const Matrix& m, int64_t rows) {
  Tensor t = m;
  t.rows = rows;
  return t;
}

// A linear layer that makes vectors of `width`; those in `scales` get their 1 + from its bias.
Linear modulation_layer(const Weights& weights, const std::string& name, int64_t width,
                        const std::vector<int64_t>& scales) {
  std::vector<float> bias = weights.file.to_float(name + ".bias");
  for (const int64_t scale : scales)
    for (int64_t i = scale * width; i < (scale + 1) * width; ++i) bias[size_t(i)] += 1.f;
  return {weights, name, bias};
}

}  // namespace

StDit::StDit(const StDitSizes& sizes, const Manifest& manifest, const Weights& weights)
    : sizes_(sizes),
      samplers_(manifest.samplers),
      codec_(sizes.codec, weights),
      attention_(weights, "rope",
                 {sizes.tokens(), sizes.heads, sizes.head_dim(), sizes.head_dim() / 2}),
      in_(weights, "in"),
      final_modulation_(modulation_layer(weights, "final.modulation", sizes.width, {1})),
      out_(weights, "out") {
  build_blocks(weights);
  build_conditions(weights);
  build_angles(weights.file.to_float("rope.time"));
}

void StDit::build_blocks(const Weights& weights) {
  const auto half = [&](const std::string& name) {
    return Half{.qkv = Linear(weights, name + ".qkv"),
                .out = Linear(weights, name + ".out"),
                .up = Linear(weights, name + ".up"),
                .down = Linear(weights, name + ".down")};
  };
  for (int l = 0; l < sizes_.layers; ++l) {
    const std::string name = "blocks." + std::to_string(l);
    blocks_.push_back(
        {.modulation = modulation_layer(weights, name + ".modulation", sizes_.width, {1, 4, 7, 10}),
         .spatial = half(name + ".spatial"),
         .temporal = half(name + ".temporal")});
  }
}

// What the network is told of time is known now, and what an action adds to it a sum of rows.
void StDit::build_conditions(const Weights& weights) {
  const Safetensors& file = weights.file;
  const auto w1 = file.to_float("time.0.weight"), b1 = file.to_float("time.0.bias");
  const auto w2 = file.to_float("time.2.weight"), b2 = file.to_float("time.2.bias");
  const auto embed = [&](float t, std::vector<float>& all) {
    std::vector<double> e = affine(w1, b1, time_features(double(t)));
    silu(e);
    for (const double x : affine(w2, b2, e)) all.push_back(float(x));
  };
  std::vector<float> commit;
  embed(sizes_.commit_time, commit);
  conditions_[0] = upload(weights.backend, commit);
  for (const auto& [steps, rows] : samplers_) {
    std::vector<float> all = commit;
    for (const SamplerRow& row : rows) embed(row.t, all);
    conditions_[steps] = upload(weights.backend, all);
  }

  const std::vector<float> weight = file.to_float("action.weight");  // [width, actions]
  const size_t width = size_t(sizes_.width), actions = size_t(sizes_.actions);
  std::vector<float> turned(weight.size());
  for (size_t i = 0; i < width; ++i)
    for (size_t j = 0; j < actions; ++j) turned[j * width + i] = weight[i * actions + j];
  actions_ = upload(weights.backend, turned);
}

void StDit::build_angles(const std::vector<float>& radians) {
  for (int frames = 0; frames < sizes_.window; ++frames)
    for (const float r : radians) {
      cos_.push_back(float(std::cos(frames * double(r))));
      sin_.push_back(float(std::sin(frames * double(r))));
    }
}

StDit::Workspace StDit::make_workspace(const std::shared_ptr<Backend>& backend, int context,
                                       const StepInputs* inputs) const {
  const DType operand = backend->operand_dtype();
  const int64_t width = sizes_.width, token = sizes_.token_size(), pairs = sizes_.head_dim() / 2;
  const int64_t times = 1 + samplers_.rbegin()->first;  // keys are ordered
  const auto matrix = [&](int64_t cols, DType dtype) {
    return Matrix(backend, sizes_.tokens(), cols, dtype);
  };
  Workspace w{.codec = codec_.make_workspace(backend),
              .x = matrix(token, DType::f32),
              .x_operand = matrix(token, operand),
              .v = matrix(token, DType::f32),
              .h = matrix(width, DType::f32),
              .normed = matrix(width, operand),
              .qkv = matrix(3 * width, DType::f32),
              .attended = matrix(width, operand),
              .hidden = matrix(sizes_.mlp, operand),
              .attention = attention_.make_workspace(backend),
              .actions = Buffer(backend, sizes_.actions * 4),
              .condition = Matrix(backend, times, width, operand),
              .modulation = {},
              .final_modulation = Matrix(backend, times, 2 * width, DType::f32),
              .cos = Buffer(backend, (1 + context) * pairs * 4),
              .sin = Buffer(backend, (1 + context) * pairs * 4),
              .inputs = inputs};
  for (int l = 0; l < sizes_.layers; ++l)
    w.modulation.emplace_back(backend, times, 12 * width, DType::f32);
  return w;
}

void StDit::encode(Backend& backend, const Workspace& w, const Picture& picture) const {
  codec_.encode(backend, w.codec, picture);
  const Tensor &grid = w.codec.latent, &x = w.x;
  backend.group({.grid = static_cast<const float*>(grid.data),
                 .tokens = static_cast<float*>(x.data),
                 .grid_stride = grid.stride,
                 .tokens_stride = x.stride,
                 .height = sizes_.height,
                 .width = sizes_.grid_width,
                 .channels = sizes_.channels,
                 .patch = sizes_.patch});
  copy_to_operand(backend, w);
}

void StDit::decode(Backend& backend, const Workspace& w, const Picture& picture) const {
  const Tensor &grid = w.codec.latent_operand, &x = w.x;
  backend.ungroup({.tokens = static_cast<const float*>(x.data),
                   .grid = grid.data,
                   .tokens_stride = x.stride,
                   .grid_stride = grid.stride,
                   .height = sizes_.height,
                   .width = sizes_.grid_width,
                   .channels = sizes_.channels,
                   .patch = sizes_.patch});
  codec_.decode(backend, w.codec, picture);
}

void StDit::save(Backend& backend, const Workspace& w) const {
  const Tensor& x = w.x;
  backend.save_frame({.x = static_cast<const float*>(x.data),
                      .inputs = w.inputs,
                      .x_stride = x.stride,
                      .rows = x.rows,
                      .cols = x.cols,
                      .actions = sizes_.actions,
                      .offset = latent_offset(backend)});
}

void StDit::load(Backend& backend, const Workspace& w) const {
  const Tensor& x = w.x;
  backend.load_frame({.x = static_cast<float*>(x.data),
                      .actions = reinterpret_cast<float*>(w.actions.data()),
                      .inputs = w.inputs,
                      .x_stride = x.stride,
                      .rows = x.rows,
                      .cols = x.cols,
                      .count = sizes_.actions,
                      .offset = latent_offset(backend)});
  copy_to_operand(backend, w);
}

// x ← 1·x + 0·x
void StDit::copy_to_operand(Backend& backend, const Workspace& w) const {
  update(backend, {w.x, w.x_operand, w.x, w.inputs}, 1.f, 0.f, 0.f, 0);
}

void StDit::modulate(Backend& backend, const Workspace& w, int steps, const float* actions) const {
  const Tensor c = first(w.condition, 1 + steps);
  backend.condition({.base = floats(conditions_.at(steps)),
                     .weight = floats(actions_),
                     .actions = actions,
                     .y = c.data,
                     .y_stride = c.stride,
                     .rows = c.rows,
                     .cols = c.cols,
                     .count = sizes_.actions});
  for (size_t l = 0; l < blocks_.size(); ++l)
    blocks_[l].modulation(backend, c, first(w.modulation[l], c.rows));
  final_modulation_(backend, c, first(w.final_modulation, c.rows));
}

StDit::Modulation StDit::modulation(const Workspace& w, int64_t layer, int row, int half) const {
  const Tensor& all = w.modulation[size_t(layer)];
  const int64_t width = sizes_.width;
  const float* m = static_cast<const float*>(all.data) + row * all.stride + half * 6 * width;
  return {m, m + width, m + 2 * width, m + 3 * width, m + 4 * width, m + 5 * width};
}

void StDit::split(Backend& backend, const Workspace& w, const Half& half,
                  const Modulation& m) const {
  layer_modulate(backend, w.h, m.scale1, m.shift1, sizes_.eps, w.normed);
  half.qkv(backend, w.normed, w.qkv);
}

void StDit::finish(Backend& backend, const Workspace& w, const Half& half,
                   const Modulation& m) const {
  half.out.add_gated(backend, w.attended, m.gate1, w.h);
  layer_modulate(backend, w.h, m.scale2, m.shift2, sizes_.eps, w.normed);
  half.up.gelu(backend, w.normed, w.hidden);
  half.down.add_gated(backend, w.hidden, m.gate2, w.h);
}

// The spatial half of a block, and q, k and v of the temporal one.
void StDit::look_around(Backend& backend, const Workspace& w, int64_t layer, int row) const {
  const Block& block = blocks_[size_t(layer)];
  const Modulation m = modulation(w, layer, row, 0);
  split(backend, w, block.spatial, m);
  attention_(backend, w.attention, w.qkv, w.attended);
  finish(backend, w, block.spatial, m);
  split(backend, w, block.temporal, modulation(w, layer, row, 1));
}

// y: of `attended`, or null where K and V are all that is wanted
void StDit::look_back(Backend& backend, const Workspace& w, int64_t layer, int pages,
                      void* y) const {
  const Tensor& qkv = w.qkv;
  const float* q = static_cast<const float*>(qkv.data);
  backend.time_attention({.q = q,
                          .k = q + sizes_.width,
                          .v = q + 2 * sizes_.width,
                          .cos = floats(w.cos),
                          .sin = floats(w.sin),
                          .inputs = w.inputs,
                          .y = y,
                          .stride = qkv.stride,
                          .y_stride = w.attended.view().stride,
                          .layer = layer,
                          .pages = pages,
                          .tokens = sizes_.tokens(),
                          .heads = sizes_.heads,
                          .dim = sizes_.head_dim()});
}

void StDit::read(Backend& backend, const Workspace& w, int pages) const {
  const int64_t last = sizes_.layers - 1;
  in_(backend, w.x_operand, w.h);
  for (int64_t l = 0; l < last; ++l) {
    look_around(backend, w, l, 0);
    look_back(backend, w, l, pages, w.attended.view().data);
    finish(backend, w, blocks_[size_t(l)].temporal, modulation(w, l, 0, 1));
  }
  look_around(backend, w, last, 0);
  look_back(backend, w, last, pages, nullptr);
}

void StDit::write(Backend& backend, const Workspace& w, int row, int pages) const {
  in_(backend, w.x_operand, w.h);
  for (int64_t l = 0; l < sizes_.layers; ++l) {
    look_around(backend, w, l, 1 + row);
    look_back(backend, w, l, pages, w.attended.view().data);
    finish(backend, w, blocks_[size_t(l)].temporal, modulation(w, l, 1 + row, 1));
  }
  const Tensor& all = w.final_modulation;
  const float* shift = static_cast<const float*>(all.data) + (1 + row) * all.stride;
  layer_modulate(backend, w.h, shift + sizes_.width, shift, sizes_.eps, w.normed);
  out_(backend, w.normed, w.v);
}

}  // namespace rtfm
