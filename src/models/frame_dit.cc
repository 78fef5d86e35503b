// SPDX-License-Identifier: Apache-2.0
#include "src/models/frame_dit.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "src/check.h"
#include "src/models/time_features.h"

namespace rtfm {
namespace {

constexpr float kNormEps = 1e-6f;

std::string block_name(int64_t layer) { return "blocks." + std::to_string(layer); }

}  // namespace

FrameDit::FrameDit(const FrameDitSizes& sizes, const Manifest& manifest, const Weights& weights)
    : sizes_(sizes),
      samplers_(manifest.samplers),
      tokens_(sizes.tokens()),
      width_(sizes.width),
      heads_(sizes.heads),
      dim_(sizes.head_dim),
      in_(weights, "in"),
      out_(weights, "out") {
  for (int64_t l = 0; l < sizes_.layers; ++l) {
    const std::string name = block_name(l);
    blocks_.push_back({.qkv = Linear(weights, name + ".qkv"),
                       .out = Linear(weights, name + ".out"),
                       .up = Linear(weights, name + ".up"),
                       .down = Linear(weights, name + ".down"),
                       .q_gain = weights.vector(name + ".q_gain"),
                       .k_gain = weights.vector(name + ".k_gain")});
  }
  build_modulation(weights);
  build_rope(weights);
}

// The schedule is fixed, so every modulation there will ever be is a row of a table.
void FrameDit::build_modulation(const Weights& weights) {
  std::set<float> times{0.f};
  for (const auto& [steps, rows] : samplers_)
    for (const SamplerRow& row : rows) times.insert(row.t);
  times_.assign(times.begin(), times.end());

  const Safetensors& file = weights.file;
  const auto w1 = file.to_float("time.0.weight"), b1 = file.to_float("time.0.bias");
  const auto w2 = file.to_float("time.2.weight"), b2 = file.to_float("time.2.bias");
  std::vector<std::vector<float>> tables;
  for (int64_t l = 0; l < sizes_.layers; ++l)
    tables.push_back(file.to_float(block_name(l) + ".modulation"));

  std::vector<float> all;
  all.reserve(times_.size() * size_t(sizes_.layers * 6 * width_));
  for (float t : times_) {
    std::vector<double> e = affine(w1, b1, time_features(1000.0 * double(t)));
    silu(e);
    const std::vector<double> vectors = affine(w2, b2, e);
    for (const std::vector<float>& table : tables)
      for (size_t i = 0; i < vectors.size(); ++i) {
        const size_t which = i / size_t(width_);  // shift1, scale1, gate1, shift2, scale2, gate2
        all.push_back(float(vectors[i] + table[i] + (which == 1 || which == 4 ? 1.0 : 0.0)));
      }
  }
  modulation_ = upload(weights.backend, all);

  std::vector<float> final = file.to_float("final.modulation");
  for (int64_t i = width_; i < 2 * width_; ++i) final[size_t(i)] += 1.f;
  final_shift_scale_ = upload(weights.backend, final);
}

// Angles [x·f_j, y·f_j], f_j = 100^(-j/(dim/8)), of each patch's column x and row y
void FrameDit::build_rope(const Weights& weights) {
  const int64_t across = sizes_.image_width / sizes_.patch, per_axis = dim_ / 8;
  std::vector<float> cos, sin;
  for (int64_t token = 0; token < tokens_; ++token)
    for (int64_t axis = 0; axis < 2; ++axis)
      for (int64_t j = 0; j < per_axis; ++j) {
        const double at = double(axis == 0 ? token % across : token / across);
        const double angle = at * std::pow(100.0, -double(j) / double(per_axis));
        cos.push_back(float(std::cos(angle)));
        sin.push_back(float(std::sin(angle)));
      }
  cos_ = upload(weights.backend, cos);
  sin_ = upload(weights.backend, sin);
}

Workspace FrameDit::make_workspace(const std::shared_ptr<Backend>& backend, int pages,
                                   const StepInputs* inputs) const {
  const DType operand = backend->operand_dtype();
  const auto matrix = [&](int64_t cols, DType dtype) {
    return Matrix(backend, tokens_, cols, dtype);
  };
  Workspace w{.x = matrix(sizes_.token_size(), DType::f32),
              .x_operand = matrix(sizes_.token_size(), operand),
              .x0 = matrix(sizes_.token_size(), DType::f32),
              .h = matrix(width_, DType::f32),
              .normed = matrix(width_, operand),
              .qkv = matrix(3 * width_, DType::f32),
              .attended = matrix(width_, operand),
              .hidden = matrix(sizes_.mlp, operand),
              .query = Buffer(backend, backend->query_bytes(heads_, tokens_, dim_)),
              .context = {},
              .slot_bytes = backend->slot_bytes(heads_, tokens_, dim_),
              .slots = 1 + pages,
              .inputs = inputs};
  w.context = Buffer(backend, int64_t(blocks_.size()) * w.slots * w.slot_bytes);
  return w;
}

PageLayout FrameDit::page_layout(const Backend& backend) const {
  return {int64_t(blocks_.size()), heads_, tokens_, dim_, size_of(backend.operand_dtype())};
}

int64_t FrameDit::time_index(float t) const {
  const auto it = std::lower_bound(times_.begin(), times_.end(), t);
  check<Error>(it != times_.end() && *it == t, "[frame_dit] no modulation for time ", t);
  return it - times_.begin();
}

FrameDit::Modulation FrameDit::modulation(int64_t time, int64_t layer) const {
  const int64_t row = (time * int64_t(blocks_.size()) + layer) * 6;
  const float* m = floats(modulation_) + row * width_;
  return {m, m + width_, m + 2 * width_, m + 3 * width_, m + 4 * width_, m + 5 * width_};
}

void FrameDit::split(Backend& backend, const Workspace& w, int64_t layer,
                     const StepInputs* inputs) const {
  const float* qkv = static_cast<const float*>(w.qkv.view().data);
  backend.qkv_split({.q = qkv,
                     .k = qkv + width_,
                     .v = qkv + 2 * width_,
                     .q_gain = floats(blocks_[size_t(layer)].q_gain),
                     .k_gain = floats(blocks_[size_t(layer)].k_gain),
                     .cos = floats(cos_),
                     .sin = floats(sin_),
                     .query = w.query.data(),
                     .slot = w.slot(layer, 0),
                     .inputs = inputs,
                     .layer = layer,
                     .stride = w.qkv.view().stride,
                     .tokens = tokens_,
                     .heads = heads_,
                     .kv_heads = heads_,
                     .dim = dim_,
                     .rope = dim_ / 4,
                     .eps = kNormEps});
}

// The rest of a block, once its K/V are in place: attention over the frame's own slot and `pages`
// gathered ones, then the MLP.
void FrameDit::transform_tokens(Backend& backend, const Workspace& w, int64_t layer,
                                const Modulation& m, int pages) const {
  const Block& block = blocks_[size_t(layer)];
  backend.attention({.q = w.query.data(),
                     .context = w.slot(layer, 0),
                     .y = w.attended.view().data,
                     .y_stride = w.attended.view().stride,
                     .slots = 1 + pages,
                     .tokens = tokens_,
                     .heads = heads_,
                     .kv_heads = heads_,
                     .dim = dim_});
  block.out.add_gated(backend, w.attended, m.gate1, w.h);
  rms_modulate(backend, w.h, m.scale2, m.shift2, kNormEps, w.normed);
  block.up.gelu(backend, w.normed, w.hidden);
  block.down.add_gated(backend, w.hidden, m.gate2, w.h);
}

void FrameDit::read(Backend& backend, const Workspace& w) const {
  const int64_t layers = int64_t(blocks_.size());
  in_(backend, w.x_operand, w.h);
  for (int64_t l = 0; l < layers; ++l) {
    const Modulation m = modulation(0, l);
    rms_modulate(backend, w.h, m.scale1, m.shift1, kNormEps, w.normed);
    blocks_[size_t(l)].qkv(backend, w.normed, w.qkv);
    split(backend, w, l, w.inputs);
    if (l + 1 < layers) transform_tokens(backend, w, l, m, 0);  // the last K/V end the pass
  }
}

void FrameDit::gather(Backend& backend, const Workspace& w, int pages) const {
  backend.gather({.inputs = w.inputs,
                  .context = w.context.data(),
                  .first_page = 0,
                  .pages = pages,
                  .slots = w.slots,
                  .slot_bytes = w.slot_bytes,
                  .first_layer = 0,
                  .layers = int64_t(blocks_.size()),
                  .tokens = tokens_,
                  .heads = heads_,
                  .dim = dim_,
                  .camera_dims = dim_ / 2});
}

void FrameDit::write(Backend& backend, const Workspace& w, float t, int pages) const {
  const int64_t time = time_index(t);
  in_(backend, w.x_operand, w.h);
  for (int64_t l = 0; l < int64_t(blocks_.size()); ++l) {
    const Modulation m = modulation(time, l);
    rms_modulate(backend, w.h, m.scale1, m.shift1, kNormEps, w.normed);
    blocks_[size_t(l)].qkv(backend, w.normed, w.qkv);
    split(backend, w, l, nullptr);
    transform_tokens(backend, w, l, m, pages);
  }
  const float* final = floats(final_shift_scale_);
  rms_modulate(backend, w.h, final + width_, final, kNormEps, w.normed);
  out_(backend, w.normed, w.x0);
}

}  // namespace rtfm
