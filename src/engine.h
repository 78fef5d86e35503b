// SPDX-License-Identifier: Apache-2.0
// What makes frames: the passes of a model on its device, with all that they write.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "src/model.h"
#include "src/pose.h"
#include "src/sampler.h"

namespace rtfm {

struct ContextPage {
  const std::byte* page;
  Mat4 transform;  // from its camera to the one of the frame
};

// Holds nothing between two calls that the next one depends on. One thread at a time.
class Engine {
 public:
  // context: the most pages that a frame attends to. threads: 0 for one per CPU.
  Engine(std::shared_ptr<const Model> model, int context, int threads);

  // Gather → denoise → decode, to image [height, width, 3].
  void render(std::span<const ContextPage> context, int steps, uint64_t seed, uint64_t frame,
              uint8_t* image);
  // The read pass, from pixels [height, width, 3]: a page can be made again at any time.
  void encode(const uint8_t* image, std::byte* page);
  void finish() { backend_->finish(); }  // pages are readable by another engine after this

  int threads() const { return backend_->threads(); }

 private:
  void warm_up();
  void write_pass(int pages, int steps);
  void read_pass();
  void launch_write(int pages, int steps);
  void launch_read();

  std::shared_ptr<const Model> model_;
  std::shared_ptr<Backend> backend_;
  Workspace workspace_;
  Buffer image_;         // [height, width, 3] uint8 on the device: what came in or goes out
  StepInputs inputs_{};  // what workspace_.inputs gets before a pass
  int64_t context_;
  std::vector<std::unique_ptr<Recording>> writings_;  // [sampler tables, pages]
  std::unique_ptr<Recording> reading_;
};

// The engines of a session and its branches. A branch takes one when it makes its first frame and
// gives it back in the end, so that trying many futures starts no threads and allocates nothing.
class Engines {
 public:
  Engines(std::shared_ptr<const Model> model, int context, int threads);

  std::unique_ptr<Engine> take();  // one that nobody uses, or a new one
  void give(std::unique_ptr<Engine> engine) noexcept;
  int threads() const { return threads_; }

 private:
  std::shared_ptr<const Model> model_;
  int context_, threads_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Engine>> idle_;
};

}  // namespace rtfm
