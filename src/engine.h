// SPDX-License-Identifier: Apache-2.0
// What makes frames: the passes of a model on its device, with all that they write.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "src/model.h"
#include "src/pixels.h"

namespace rtfm {

// Holds nothing from one shot to the next that it depends on. One thread at a time.
class Engine {
 public:
  // context: the most pages that a frame attends to. threads: 0 for one per CPU.
  Engine(std::shared_ptr<const Model> model, int context, int threads);

  void render(const Shot& shot, int steps, Pixels& images);  // the frame of a shot
  // The page of a frame, from its images [images, height, width, 3]. Where the family goes by poses
  // it attends to nothing, so that it can be made again at any time.
  void encode(const Shot& shot, const uint8_t* images, std::byte* page);
  // Families that go by actions: the page of the frame that was rendered last, of the same shot;
  // and a page made again from what it holds of its frame.
  void keep(const Shot& shot, std::byte* page);
  void renew(const Shot& shot, std::byte* page);
  // Parts of pages, to and from the host, and from page to page. Complete at once.
  void download(std::byte* host, const std::byte* from, int64_t bytes) {
    backend_->download(host, from, bytes);
  }
  void upload(std::byte* to, const std::byte* host, int64_t bytes) {
    backend_->upload(to, host, bytes);
  }
  void copy(std::byte* to, const std::byte* from, int64_t bytes) {
    backend_->copy(to, from, bytes);
    backend_->finish();  // whose `from` is may let go of it
  }
  void follow(uint64_t stream) { backend_->follow(stream); }
  void finish() { backend_->finish(); }  // pages are readable by another engine after this

  int threads() const { return backend_->threads(); }

 private:
  void warm_up();
  template <class F>
  void launch(std::unique_ptr<Recording>& recording, const F& work);
  void launch_write(const Shot& shot, int steps);
  void launch_read(const Shot& shot, std::byte* page);

  std::shared_ptr<const Model> model_;
  std::shared_ptr<Backend> backend_;
  std::unique_ptr<Passes> passes_;
  int64_t context_;
  using Recordings = std::vector<std::unique_ptr<Recording>>;
  Recordings writings_;                         // [sampler tables, 1 + context]
  Recordings readings_, keepings_, renewings_;  // [1 + context]
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
