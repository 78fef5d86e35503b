// SPDX-License-Identifier: Apache-2.0
// The video codec TAEHV: some consecutive images become one latent and the other way round, image
// after image. Its memory blocks see what they were given one image before.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "src/convolution.h"
#include "src/network.h"

namespace rtfm {

constexpr int kStages = 3;  // of the encoder and of the decoder; each halves or doubles the sides
constexpr int kBlocks = 3;  // memory blocks of a stage

struct TaehvSizes {
  int64_t rows, cols;  // of a latent
  int latent, patch;   // channels; pixels to a side that are folded into channels
  int encoder_width;
  std::array<int, kStages> encoder_strides;     // images that become one before each stage
  std::array<int, kStages + 1> decoder_widths;  // of the stages, and after the last one
  std::array<int, kStages> decoder_strides;     // images that one becomes after each stage
  int warmup;  // times that the first latent is decoded before its images are shown

  int images() const { return decoder_strides[0] * decoder_strides[1] * decoder_strides[2]; }
  int64_t places() const { return rows * cols; }
  int64_t height() const { return rows * 8 * patch; }  // of an image
  int64_t width() const { return cols * 8 * patch; }
};

// The section `codec` of a manifest, but for rows and cols. Throws ModelError.
TaehvSizes parse_taehv(const Section& codec);
void add_taehv_tensors(const TaehvSizes& sizes, Shapes& shapes);  // all under "codec."

// Hands out parts of memory one after another; of none, to find out how much it takes.
class Room {
 public:
  Room(const Backend& backend, std::byte* memory) : backend_(backend), memory_(memory) {}

  std::byte* bytes(int64_t count);
  Tensor matrix(int64_t rows, int64_t cols, DType dtype);
  int64_t taken() const { return taken_; }

 private:
  const Backend& backend_;
  std::byte* memory_;
  int64_t taken_ = 0;
};

// What each memory block is given now and was given an image ago, stage by stage.
class TaehvMemory {
 public:
  struct Stage {
    int64_t rows, cols, width;
  };
  TaehvMemory() = default;
  TaehvMemory(Room& room, const std::array<Stage, kStages>& stages, DType dtype);

  Plane now(int stage, int block) const { return plane(stage, block, 1 - turn_[stage]); }
  // Its data is null where nothing was before.
  Tensor before(int stage, int block) const;
  void advance(int stage);  // now becomes before
  void clear();             // nothing was before

  int64_t bytes() const { return at_[kStages]; }
  // What was before, bytes(), from the state of the inputs and to the next one.
  void load(Backend& backend, const StepInputs* inputs);
  void store(Backend& backend, const StepInputs* inputs) const;

 private:
  Plane plane(int stage, int block, int which) const;

  std::array<Stage, kStages> stages_;
  std::array<int64_t, kStages + 1> at_;  // bytes from the start of a half
  std::array<std::byte*, 2> halves_;
  DType dtype_;
  std::array<int, kStages> turn_{};  // the half of what was before
  std::array<bool, kStages> empty_;
};

// What encoding writes on the way.
struct TaehvEncoding {
  TaehvEncoding() = default;
  TaehvEncoding(Room& room, const TaehvSizes& sizes, DType operand);

  TaehvMemory memory;
  std::array<Tensor, kStages> groups;  // [places, stride * width]: images that become one
  Tensor pixels;                       // [height/p * width/p, 3*p*p]: of one image
  Tensor pooled;                       // [height/p * width/p, width], and less in later stages
  Tensor encoded;                      // [places, encoder_width]
  std::array<std::byte*, 2> hidden() const;  // inside a block
};

// What decoding writes on the way.
struct TaehvDecoding {
  TaehvDecoding() = default;
  TaehvDecoding(Room& room, const TaehvSizes& sizes, DType operand);

  TaehvMemory memory;
  std::array<Tensor, kStages> done;   // [places, width]: what the memory blocks made
  std::array<Tensor, kStages> grown;  // [places, stride * width]: images that one became
  Tensor features;                    // [height/p * width/p, last width]
  Tensor shown;                       // [height/p * width/p, 3*p*p] f32
  std::array<std::byte*, 2> hidden;   // inside a block
};

// All that the codec writes. The two ways share their memory: each begins with nothing of the
// other's, and decoding remembers from call to call as long as nothing is encoded.
struct TaehvScratch {
  TaehvScratch(const std::shared_ptr<Backend>& backend, const TaehvSizes& sizes);

  Matrix latent;    // [places, latent] f32: encoded
  Matrix squashed;  // ... operand: to be decoded
  Buffer memory;
  TaehvEncoding encoder;
  TaehvDecoding decoder;
};

// Immutable weights.
class Taehv {
 public:
  Taehv(const TaehvSizes& sizes, const Weights& weights);

  // images [images, height, width, 3], a clip that nothing precedes → scratch.latent
  void encode(Backend& backend, TaehvScratch& scratch, const std::byte* images) const;
  // scratch.squashed → the images; scratch.decoder remembers
  void decode(Backend& backend, TaehvScratch& scratch, std::byte* images) const;

  const TaehvSizes& sizes() const { return sizes_; }

 private:
  using Block = std::array<Convolution, 3>;
  struct EncoderStage {
    Convolution pool, down;
    std::array<Block, kBlocks> blocks;
  };
  struct DecoderStage {
    std::array<Block, kBlocks> blocks;
    Convolution grow, out;
  };
  static std::array<Block, kBlocks> make_blocks(const Weights& weights, const std::string& stage);

  static void remember(Backend& backend, TaehvMemory& memory,
                       const std::array<std::byte*, 2>& hidden, int stage,
                       const std::array<Block, kBlocks>& blocks, const Tensor& y);
  void encode_stage(Backend& backend, TaehvScratch& scratch, int stage, int image) const;
  void decode_stage(Backend& backend, TaehvDecoding& s, int stage, int image,
                    std::byte* images) const;

  TaehvSizes sizes_;
  Convolution encoder_in_, encoder_out_, decoder_in_, decoder_out_;
  std::vector<EncoderStage> encoder_;
  std::vector<DecoderStage> decoder_;
};

}  // namespace rtfm
