// SPDX-License-Identifier: Apache-2.0
// What every family of networks is to an engine: passes that fill pages and make frames.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/layers.h"
#include "src/manifest.h"
#include "src/pose.h"
#include "src/tensor.h"

namespace rtfm {

constexpr int kMaxTokens = 65536;  // of a frame

// Throw ModelError: for an image that patches do not cover, or that has too many of them; for heads
// that are not the whole width of their section, or of a size that no device has.
void check_patches(const Manifest& manifest, int patch);
void check_heads(const Section& section, int heads, int head_dim, int width);

struct ContextPage {
  const std::byte* page;
  Mat4 transform;  // from its camera to the one of the frame
  int64_t id;      // of its frame
};

struct PagePart {  // some of the bytes of a page
  int64_t offset, bytes;
  DType dtype;  // of its numbers
};

struct Shot {  // what differs from frame to frame
  std::span<const ContextPage> context{};
  Camera camera{};                   // of the frame, in the gauge of the world
  std::span<const float> actions{};  // that lead to the frame
  uint64_t seed = 0, frame = 0;      // frame: its id
  const std::byte* state = nullptr;  // that the frame before it left; null: there is none
  std::byte* next_state = nullptr;   // that passes which fill a page leave
};

// The passes of one network over memory of their own. Write and read are functions of the number of
// pages, of the inputs and of what prepare() left on the device, so that a device can record them.
class Passes {
 public:
  // frame_bytes: of the images of a frame.
  Passes(std::shared_ptr<Backend> backend, int64_t frame_bytes);
  virtual ~Passes() = default;

  // On the host, before each pass: uploads the inputs, and what else follows from the shot.
  virtual void prepare(const Shot& shot, std::byte* page, int steps);

  // Whether that is so; if not, what they launch also goes by the shot itself.
  virtual bool recordable() const { return true; }

  virtual void write(int pages, int steps) = 0;  // noise → frame, in image()
  virtual void read(int pages) = 0;              // the frame in image() → the page of the inputs

  // Families whose frames attend to the frames before them only (Manifest::sequence), which a
  // picture alone cannot bring back:
  virtual void keep(int pages);   // the frame written last → the page of the inputs
  virtual void renew(int pages);  // the page of the inputs again, from the frame that it holds

  const Buffer& image() const { return image_; }

 protected:
  const StepInputs* inputs() const { return reinterpret_cast<const StepInputs*>(inputs_.data()); }

  std::shared_ptr<Backend> backend_;

 private:
  Buffer image_;   // [images, height, width, 3] uint8
  Buffer inputs_;  // one StepInputs
};

// Immutable weights, shared by any number of passes.
class Network {
 public:
  virtual ~Network() = default;
  // context: the most pages that a frame attends to. The network outlives what it makes.
  virtual std::unique_ptr<Passes> make_passes(const std::shared_ptr<Backend>& backend,
                                              int context) const = 0;
  virtual int64_t page_bytes(const Backend& backend) const = 0;
  // What the next frame needs of all before it, beside pages; 0: nothing.
  virtual int64_t state_bytes(const Backend&) const { return 0; }
  // What Passes::renew makes the rest of a page from: where frames leave the window for good, all
  // that must be written down of it.
  virtual PagePart renewed_from(const Backend& backend) const {
    return {0, page_bytes(backend), backend.operand_dtype()};
  }
};

using Shapes = std::map<std::string, std::vector<int64_t>>;

// The sizes of one network, as its manifest has them.
class Topology {
 public:
  virtual ~Topology() = default;
  virtual Shapes tensors() const = 0;  // name → shape of all that such a model has
  virtual std::unique_ptr<Network> build(const Manifest& manifest,
                                         const Weights& weights) const = 0;
};

}  // namespace rtfm
