// SPDX-License-Identifier: Apache-2.0
#include "src/models/taehv.h"

#include <algorithm>
#include <numeric>

#include "src/check.h"

namespace rtfm {
namespace {

constexpr Kernel kPlain{.side = 1, .padding = 0};
constexpr float kLevels = 255;  // of a pixel, which the network sees in [0, 1]

std::string stage_name(const char* side, int stage) {
  return std::string("codec.") + side + ".stages." + std::to_string(stage);
}

// Columns of one image in a matrix of several images.
Tensor part(const Tensor& images, int index, int64_t width) {
  Tensor t = images;
  t.data = static_cast<std::byte*>(t.data) + index * width * size_of(t.dtype);
  t.cols = width;
  return t;
}

template <size_t N>
std::array<int, N> sizes_of(const Section& section, std::string_view key, int most) {
  const std::vector<double> numbers = section.numbers(key, N, 1, most);
  std::array<int, N> sizes;
  for (size_t i = 0; i < N; ++i) {
    sizes[i] = int(numbers[i]);
    check<ModelError>(sizes[i] == numbers[i], section.label(key), "expected integers");
  }
  return sizes;
}

}  // namespace

TaehvSizes parse_taehv(const Section& codec) {
  codec.has_exactly({"kind", "latent", "patch", "encoder_width", "encoder_strides",
                     "decoder_widths", "decoder_strides", "warmup"});
  codec.is("kind", "taehv");
  constexpr int kMostStride = 8, kMostWidth = 4096;
  const TaehvSizes s{.rows = 0,
                     .cols = 0,
                     .latent = codec.size("latent", 1, 1024),
                     .patch = codec.size("patch", 1, 16),
                     .encoder_width = codec.size("encoder_width", 1, kMostWidth),
                     .encoder_strides = sizes_of<kStages>(codec, "encoder_strides", kMostStride),
                     .decoder_widths = sizes_of<kStages + 1>(codec, "decoder_widths", kMostWidth),
                     .decoder_strides = sizes_of<kStages>(codec, "decoder_strides", kMostStride),
                     .warmup = codec.size("warmup", 0, 64)};
  const int together =
      std::accumulate(s.encoder_strides.begin(), s.encoder_strides.end(), 1, std::multiplies<>());
  check<ModelError>(together == s.images(), codec.label("encoder_strides"), "expected ", s.images(),
                    " images together, as decoder_strides, got ", together);
  return s;
}

void add_taehv_tensors(const TaehvSizes& s, Shapes& shapes) {
  const auto conv = [&](const std::string& name, int64_t inputs, int64_t outputs, bool bias) {
    shapes[name + ".weight"] = {outputs, 9 * inputs};
    if (bias) shapes[name + ".bias"] = {outputs};
  };
  const auto blocks = [&](const std::string& stage, int64_t width) {
    for (int block = 0; block < kBlocks; ++block)
      for (int i = 0; i < 3; ++i)
        conv(stage + ".blocks." + std::to_string(block) + ".convs." + std::to_string(i),
             i == 0 ? 2 * width : width, width, true);
  };
  const int64_t pixels = int64_t{3} * s.patch * s.patch, width = s.encoder_width;
  conv("codec.encoder.in", pixels, width, true);
  conv("codec.encoder.out", width, s.latent, true);
  conv("codec.decoder.in", s.latent, s.decoder_widths[0], true);
  conv("codec.decoder.out", s.decoder_widths[kStages], pixels, true);
  for (int i = 0; i < kStages; ++i) {
    const std::string encoder = stage_name("encoder", i), decoder = stage_name("decoder", i);
    const int64_t n = s.decoder_widths[i];
    shapes[encoder + ".pool.weight"] = {width, s.encoder_strides[i] * width};
    conv(encoder + ".down", width, width, false);
    blocks(encoder, width);
    shapes[decoder + ".grow.weight"] = {s.decoder_strides[i] * n, n};
    conv(decoder + ".out", n, s.decoder_widths[i + 1], false);
    blocks(decoder, n);
  }
}

std::byte* Room::bytes(int64_t count) {
  constexpr int64_t kLine = 256;  // what a device's memory begins at
  std::byte* part = memory_ ? memory_ + taken_ : nullptr;
  taken_ += round_up(count, kLine);
  return part;
}

Tensor Room::matrix(int64_t rows, int64_t cols, DType dtype) {
  const int64_t stride = backend_.row_stride(cols, dtype);
  return {bytes(backend_.padded_rows(rows) * stride * size_of(dtype)), rows, cols, stride, dtype};
}

TaehvMemory::TaehvMemory(Room& room, const std::array<Stage, kStages>& stages, DType dtype)
    : stages_(stages), dtype_(dtype) {
  at_[0] = 0;
  for (int i = 0; i < kStages; ++i)
    at_[i + 1] =
        at_[i] + kBlocks * stages[i].rows * stages[i].cols * stages[i].width * size_of(dtype_);
  for (std::byte*& half : halves_) half = room.bytes(at_[kStages]);
  clear();
}

Plane TaehvMemory::plane(int stage, int block, int which) const {
  const Stage& s = stages_[stage];
  const int64_t places = s.rows * s.cols, bytes = places * s.width * size_of(dtype_);
  return {{halves_[which] + at_[stage] + block * bytes, places, s.width, s.width, dtype_},
          s.rows,
          s.cols};
}

Tensor TaehvMemory::before(int stage, int block) const {
  Tensor t = plane(stage, block, turn_[stage]).values;
  if (empty_[stage]) t.data = nullptr;
  return t;
}

void TaehvMemory::advance(int stage) {
  turn_[stage] = 1 - turn_[stage];
  empty_[stage] = false;
}

void TaehvMemory::clear() { empty_.fill(true); }

void TaehvMemory::load(Backend& backend, const StepInputs* inputs) {
  turn_.fill(0), empty_.fill(false);
  backend.state_load({.inputs = inputs, .memory = halves_[0], .offset = 0, .bytes = bytes()});
}

void TaehvMemory::store(Backend& backend, const StepInputs* inputs) const {
  for (int i = 0; i < kStages; ++i)
    backend.state_store({.inputs = inputs,
                         .memory = halves_[turn_[i]] + at_[i],
                         .offset = at_[i],
                         .bytes = at_[i + 1] - at_[i]});
}

TaehvEncoding::TaehvEncoding(Room& room, const TaehvSizes& s, DType operand) {
  const int64_t width = s.encoder_width, places = s.places(), first = places << (2 * kStages);
  std::array<TaehvMemory::Stage, kStages> stages;
  for (int i = 0; i < kStages; ++i) {
    const int half = kStages - 1 - i;
    stages[i] = {s.rows << half, s.cols << half, width};
    groups[i] = room.matrix(places << (2 * (half + 1)), s.encoder_strides[i] * width, operand);
  }
  memory = TaehvMemory(room, stages, operand);
  pixels = room.matrix(first, int64_t{3} * s.patch * s.patch, operand);
  pooled = room.matrix(first, width, operand);
  encoded = room.matrix(places, width, operand);
}

// The input of the first stage has been read when a block begins, and is as large as four of it.
std::array<std::byte*, 2> TaehvEncoding::hidden() const {
  std::byte* given = static_cast<std::byte*>(groups[0].data);
  return {given, given + groups[0].rows * groups[0].stride / 4 * size_of(groups[0].dtype)};
}

TaehvDecoding::TaehvDecoding(Room& room, const TaehvSizes& s, DType operand) {
  const int64_t places = s.places(), last = places << (2 * kStages);
  std::array<TaehvMemory::Stage, kStages> stages;
  int64_t most = 0;
  for (int i = 0; i < kStages; ++i) {
    const int64_t n = s.decoder_widths[i], here = places << (2 * i);
    stages[i] = {s.rows << i, s.cols << i, n};
    done[i] = room.matrix(here, n, operand);
    grown[i] = room.matrix(here, s.decoder_strides[i] * n, operand);
    most = std::max(most, here * n);
  }
  memory = TaehvMemory(room, stages, operand);
  features = room.matrix(last, s.decoder_widths[kStages], operand);
  shown = room.matrix(last, int64_t{3} * s.patch * s.patch, DType::f32);
  for (std::byte*& part : hidden) part = room.bytes(most * size_of(operand));
}

TaehvScratch::TaehvScratch(const std::shared_ptr<Backend>& backend, const TaehvSizes& s)
    : latent(backend, s.places(), s.latent, DType::f32),
      squashed(backend, s.places(), s.latent, backend->operand_dtype()) {
  const DType operand = backend->operand_dtype();
  Room encoding(*backend, nullptr), decoding(*backend, nullptr);
  TaehvEncoding(encoding, s, operand), TaehvDecoding(decoding, s, operand);
  memory = Buffer(backend, std::max(encoding.taken(), decoding.taken()));
  Room to_encode(*backend, memory.data()), to_decode(*backend, memory.data());
  encoder = TaehvEncoding(to_encode, s, operand), decoder = TaehvDecoding(to_decode, s, operand);
}

std::array<Taehv::Block, kBlocks> Taehv::make_blocks(const Weights& weights,
                                                     const std::string& stage) {
  const auto block = [&](int index) -> Block {
    const std::string name = stage + ".blocks." + std::to_string(index) + ".convs.";
    return {Convolution(weights, name + "0"), Convolution(weights, name + "1"),
            Convolution(weights, name + "2")};
  };
  return {block(0), block(1), block(2)};
}

Taehv::Taehv(const TaehvSizes& sizes, const Weights& weights)
    : sizes_(sizes),
      encoder_in_(weights, "codec.encoder.in"),
      encoder_out_(weights, "codec.encoder.out"),
      decoder_in_(weights, "codec.decoder.in"),
      decoder_out_(weights, "codec.decoder.out") {
  for (int i = 0; i < kStages; ++i) {
    const std::string encoder = stage_name("encoder", i), decoder = stage_name("decoder", i);
    encoder_.push_back({.pool = Convolution(weights, encoder + ".pool", kPlain),
                        .down = Convolution(weights, encoder + ".down", {.stride = 2}),
                        .blocks = make_blocks(weights, encoder)});
    decoder_.push_back({.blocks = make_blocks(weights, decoder),
                        .grow = Convolution(weights, decoder + ".grow", kPlain),
                        .out = Convolution(weights, decoder + ".out", {.zoom = 2})});
  }
}

// relu(x + conv(relu(conv(relu(conv([x | past])))))) three times; what the first is given is in
// place.
void Taehv::remember(Backend& backend, TaehvMemory& memory, const std::array<std::byte*, 2>& hidden,
                     int stage, const std::array<Block, kBlocks>& blocks, const Tensor& y) {
  for (int i = 0; i < kBlocks; ++i) {
    const Plane x = memory.now(stage, i);
    Plane a = x, b = x;  // of the same shape
    a.values.data = hidden[0], b.values.data = hidden[1];
    blocks[i][0].relu(backend, x, memory.before(stage, i), a.values);
    blocks[i][1].relu(backend, a, b.values);
    blocks[i][2].residual_relu(backend, b, x.values,
                               i + 1 < kBlocks ? memory.now(stage, i + 1).values : y);
  }
  memory.advance(stage);
}

void Taehv::encode(Backend& backend, TaehvScratch& s, const std::byte* images) const {
  const int64_t height = sizes_.height(), width = sizes_.width();
  TaehvEncoding& e = s.encoder;
  e.memory.clear();
  for (int i = 0; i < sizes_.images(); ++i) {
    backend.patchify({.image = reinterpret_cast<const uint8_t*>(images) + i * 3 * height * width,
                      .tokens = e.pixels.data,
                      .tokens_stride = e.pixels.stride,
                      .height = height,
                      .width = width,
                      .patch = sizes_.patch,
                      .divisor = kLevels,
                      .offset = 0});
    const int stride = sizes_.encoder_strides[0];
    encoder_in_.relu(backend, {e.pixels, height / sizes_.patch, width / sizes_.patch},
                     part(e.groups[0], i % stride, sizes_.encoder_width));
    if ((i + 1) % stride == 0) encode_stage(backend, s, 0, i / stride);
  }
}

// Image `image` of those that come out of the stage; what it is made of is in place.
void Taehv::encode_stage(Backend& backend, TaehvScratch& s, int stage, int image) const {
  const EncoderStage& layers = encoder_[size_t(stage)];
  TaehvEncoding& e = s.encoder;
  const Plane first = e.memory.now(stage, 0);
  const int64_t rows = 2 * first.rows, cols = 2 * first.cols;
  Tensor pooled = e.pooled;
  pooled.rows = rows * cols;
  layers.pool.operand(backend, {e.groups[stage], rows, cols}, pooled);
  layers.down.operand(backend, {pooled, rows, cols}, first.values);
  const int next = stage + 1;
  const int stride = next < kStages ? sizes_.encoder_strides[next] : 1;
  remember(backend, e.memory, e.hidden(), stage, layers.blocks,
           next < kStages ? part(e.groups[next], image % stride, sizes_.encoder_width) : e.encoded);
  if (next == kStages)
    encoder_out_(backend, {e.encoded, sizes_.rows, sizes_.cols}, s.latent);
  else if ((image + 1) % stride == 0)
    encode_stage(backend, s, next, image / stride);
}

void Taehv::decode(Backend& backend, TaehvScratch& s, std::byte* images) const {
  decoder_in_.relu(backend, {s.squashed, sizes_.rows, sizes_.cols},
                   s.decoder.memory.now(0, 0).values);
  decode_stage(backend, s.decoder, 0, 0, images);
}

// Image `image` of those that go into the stage, which is in place, and all that come of it.
void Taehv::decode_stage(Backend& backend, TaehvDecoding& s, int stage, int image,
                         std::byte* images) const {
  const DecoderStage& d = decoder_[size_t(stage)];
  const Plane here = s.memory.now(stage, 0);
  const int stride = sizes_.decoder_strides[stage];
  remember(backend, s.memory, s.hidden, stage, d.blocks, s.done[stage]);
  d.grow.operand(backend, {s.done[stage], here.rows, here.cols}, s.grown[stage]);
  for (int i = 0; i < stride; ++i) {
    const Plane x{part(s.grown[stage], i, here.values.cols), here.rows, here.cols};
    const int which = image * stride + i;
    if (stage + 1 < kStages) {
      d.out.operand(backend, x, s.memory.now(stage + 1, 0).values);
      decode_stage(backend, s, stage + 1, which, images);
      continue;
    }
    d.out.relu(backend, x, s.features);
    decoder_out_(backend, {s.features, 2 * here.rows, 2 * here.cols}, s.shown);
    backend.unpatchify(
        {.tokens = static_cast<const float*>(s.shown.data),
         .image = reinterpret_cast<uint8_t*>(images) + which * 3 * sizes_.height() * sizes_.width(),
         .tokens_stride = s.shown.stride,
         .height = sizes_.height(),
         .width = sizes_.width(),
         .patch = sizes_.patch,
         .divisor = kLevels,
         .offset = 0});
  }
}

}  // namespace rtfm
