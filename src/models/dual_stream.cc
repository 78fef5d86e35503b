// SPDX-License-Identifier: Apache-2.0
#include "src/models/dual_stream.h"

namespace rtfm {
namespace {

Tensor first_columns(const Matrix& matrix, int64_t cols) {
  Tensor part = matrix.view();
  part.cols = cols;
  return part;
}

}  // namespace

DualStream::DualStream(const DualStreamSizes& sizes, const Weights& weights)
    : sizes_(sizes),
      tokens_(sizes.tokens()),
      width_(sizes.width),
      heads_(sizes.heads),
      dim_(sizes.head_dim),
      reader_in_(weights, "reader.in"),
      writer_in_(weights, "writer.in"),
      out_(weights, "out"),
      ones_(upload(weights.backend, std::vector<float>(size_t(sizes.width), 1.f))),
      zeros_(upload(weights.backend, std::vector<float>(size_t(sizes.width), 0.f))) {
  for (int layer = 0; layer < sizes_.layers; ++layer) {
    const std::string block = ".blocks." + std::to_string(layer);
    const std::string reader = "reader" + block, writer = "writer" + block;
    reader_.push_back({.block = make_block(weights, reader),
                       .page_kv = Linear(weights, reader + ".page_kv"),
                       .page_k_gain = weights.vector(reader + ".page_k_gain")});
    writer_.push_back({.block = make_block(weights, writer),
                       .cross_q = Linear(weights, writer + ".cross_q"),
                       .cross_out = Linear(weights, writer + ".cross_out"),
                       .cross_q_gain = weights.vector(writer + ".cross_q_gain")});
  }
}

DualStream::Block DualStream::make_block(const Weights& weights, const std::string& name) {
  return {.qkv = Linear(weights, name + ".qkv"),
          .out = Linear(weights, name + ".out"),
          .up = Linear(weights, name + ".up"),
          .down = Linear(weights, name + ".down"),
          .q_gain = weights.vector(name + ".q_gain"),
          .k_gain = weights.vector(name + ".k_gain")};
}

int64_t DualStream::page_bytes(const Backend& backend) const {
  return sizes_.layers * 2 * tokens_ * width_ * size_of(backend.operand_dtype());
}

DualStream::Workspace DualStream::make_workspace(const std::shared_ptr<Backend>& backend, int pages,
                                                 const StepInputs* inputs) const {
  const DType operand = backend->operand_dtype();
  const auto matrix = [&](int64_t cols, DType dtype) {
    return Matrix(backend, tokens_, cols, dtype);
  };
  Workspace w{.seen = matrix(9 * sizes_.area(), operand),
              .rays = matrix(6 * sizes_.area(), operand),
              .h = matrix(width_, DType::f32),
              .normed = matrix(width_, operand),
              .qkv = matrix(3 * width_, DType::f32),
              .attended = matrix(width_, operand),
              .hidden = matrix(sizes_.mlp, operand),
              .frame = matrix(3 * sizes_.area(), DType::f32),
              .query = Buffer(backend, backend->query_bytes(heads_, tokens_, dim_)),
              .context = {},
              .slot_bytes = backend->slot_bytes(heads_, tokens_, dim_),
              .slots = 1 + pages,
              .inputs = inputs};
  w.context = Buffer(backend, w.slots * w.slot_bytes);
  return w;
}

// Of nothing yet, without RoPE: callers add what they have.
QkvSplitArgs DualStream::split(const Workspace& w) const {
  return {.q = nullptr,
          .k = nullptr,
          .v = nullptr,
          .q_gain = nullptr,
          .k_gain = nullptr,
          .cos = nullptr,
          .sin = nullptr,
          .query = w.query.data(),
          .slot = nullptr,
          .inputs = nullptr,
          .layer = 0,
          .stride = w.qkv.view().stride,
          .tokens = tokens_,
          .heads = heads_,
          .kv_heads = heads_,
          .dim = dim_,
          .rope = 0,
          .eps = sizes_.qk_norm_eps};
}

void DualStream::normalize(Backend& backend, const Workspace& w) const {
  layer_modulate(backend, w.h, floats(ones_), floats(zeros_), sizes_.norm_eps, w.normed);
}

void DualStream::attend(Backend& backend, const Workspace& w, int64_t first_slot,
                        int64_t slots) const {
  backend.attention({.q = w.query.data(),
                     .context = w.context.data() + first_slot * w.slot_bytes,
                     .y = w.attended.view().data,
                     .y_stride = w.attended.view().stride,
                     .slots = slots,
                     .tokens = tokens_,
                     .heads = heads_,
                     .kv_heads = heads_,
                     .dim = dim_});
}

// Self-attention, from workspace.normed.
void DualStream::look_inside(Backend& backend, const Workspace& w, const Block& block) const {
  block.qkv(backend, w.normed, w.qkv);
  QkvSplitArgs args = split(w);
  args.q = floats(w.qkv), args.k = args.q + width_, args.v = args.k + width_;
  args.q_gain = floats(block.q_gain), args.k_gain = floats(block.k_gain);
  args.slot = w.context.data();
  backend.qkv_split(args);
  attend(backend, w, 0, 1);
  block.out.add_gated(backend, w.attended, nullptr, w.h);
}

// Attention to the pages, which all layers bring into the same slots, one after the other.
void DualStream::look_around(Backend& backend, const Workspace& w, int64_t layer, int pages) const {
  const Writer& writer = writer_[size_t(layer)];
  normalize(backend, w);
  writer.cross_q(backend, w.normed, first_columns(w.qkv, width_));
  QkvSplitArgs args = split(w);
  args.q = floats(w.qkv), args.q_gain = floats(writer.cross_q_gain);
  backend.qkv_split(args);
  backend.gather({.inputs = w.inputs,
                  .context = w.context.data(),
                  .first_page = 0,
                  .pages = pages,
                  .slots = w.slots,
                  .slot_bytes = w.slot_bytes,
                  .first_layer = layer,
                  .layers = 1,
                  .tokens = tokens_,
                  .heads = heads_,
                  .dim = dim_,
                  .camera_dims = 0});
  attend(backend, w, 1, pages);
  writer.cross_out.add_gated(backend, w.attended, nullptr, w.h);
}

void DualStream::feed(Backend& backend, const Workspace& w, const Block& block) const {
  normalize(backend, w);
  block.up.gelu_erf(backend, w.normed, w.hidden);
  block.down.add_gated(backend, w.hidden, nullptr, w.h);
}

// From workspace.normed.
void DualStream::fill_page(Backend& backend, const Workspace& w, int64_t layer) const {
  const Reader& reader = reader_[size_t(layer)];
  reader.page_kv(backend, w.normed, first_columns(w.qkv, 2 * width_));
  QkvSplitArgs args = split(w);
  args.k = floats(w.qkv), args.v = args.k + width_;
  args.k_gain = floats(reader.page_k_gain);
  args.inputs = w.inputs, args.layer = layer;
  backend.qkv_split(args);
}

void DualStream::read(Backend& backend, const Workspace& w, const Picture& picture) const {
  ray_patches(backend, picture, w.inputs, sizes_.patch, w.seen);
  reader_in_(backend, w.seen, w.h);
  normalize(backend, w);
  for (int layer = 0; layer < sizes_.layers; ++layer) {
    const Block& block = reader_[size_t(layer)].block;
    look_inside(backend, w, block);
    feed(backend, w, block);
    normalize(backend, w);  // for the page and for the next layer
    fill_page(backend, w, layer);
  }
}

void DualStream::write(Backend& backend, const Workspace& w, int pages) const {
  ray_patches(backend, {nullptr, sizes_.image_height, sizes_.image_width}, w.inputs, sizes_.patch,
              w.rays);
  writer_in_(backend, w.rays, w.h);
  for (int layer = 0; layer < sizes_.layers; ++layer) {
    const Block& block = writer_[size_t(layer)].block;
    normalize(backend, w);
    look_inside(backend, w, block);
    if (pages > 0) look_around(backend, w, layer, pages);
    feed(backend, w, block);
  }
  normalize(backend, w);
  out_.signed_sigmoid(backend, w.normed, w.frame);
}

}  // namespace rtfm
