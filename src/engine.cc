// SPDX-License-Identifier: Apache-2.0
#include "src/engine.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

namespace rtfm {

Engine::Engine(std::shared_ptr<const Model> model, int context, int threads)
    : model_(std::move(model)),
      backend_(model_->make_session_backend(threads)),
      workspace_(model_->network().make_workspace(backend_, context)),
      image_(backend_, model_->manifest().image_bytes()),
      context_(context),
      writings_(model_->manifest().samplers.size() * size_t(context)) {
  if (backend_->records()) warm_up();
}

// Everything that frames will launch is recorded before the first one, on an empty page.
void Engine::warm_up() {
  const Buffer page(backend_, model_->network().page_layout(*backend_).bytes());
  inputs_.page = page.data();
  std::fill_n(inputs_.pages, context_, page.data());
  for (const auto& [steps, table] : model_->manifest().samplers)
    for (int pages = 1; pages <= context_; ++pages) launch_write(pages, steps);
  launch_read();
  finish();
}

void Engine::render(std::span<const ContextPage> context, int steps, uint64_t seed, uint64_t frame,
                    uint8_t* image) {
  for (size_t i = 0; i < context.size(); ++i) {
    inputs_.pages[i] = context[i].page;
    std::copy(context[i].transform.begin(), context[i].transform.end(), inputs_.transforms[i]);
  }
  inputs_.seed = seed;
  inputs_.frame = frame;
  launch_write(int(context.size()), steps);
  backend_->download(image, image_.data(), image_.bytes());
}

void Engine::encode(const uint8_t* image, std::byte* page) {
  inputs_.page = page;
  backend_->upload(image_.data(), image, image_.bytes());
  launch_read();
}

void Engine::launch_write(int pages, int steps) {
  const auto& samplers = model_->manifest().samplers;
  const int64_t table = std::distance(samplers.begin(), samplers.find(steps));
  backend_->upload(workspace_.inputs.data(), &inputs_, sizeof inputs_);
  backend_->replay(writings_[size_t(table * context_ + pages - 1)],
                   [&] { write_pass(pages, steps); });
}

void Engine::launch_read() {
  backend_->upload(workspace_.inputs.data(), &inputs_, sizeof inputs_);
  backend_->replay(reading_, [&] { read_pass(); });
}

// What is recorded: everything that depends on the inputs only.
void Engine::write_pass(int pages, int steps) {
  const Manifest& m = model_->manifest();
  model_->network().gather(*backend_, workspace_, pages);
  sample(*backend_, model_->network(), workspace_, m.samplers.at(steps), pages);
  const Tensor& tokens = workspace_.x;
  backend_->unpatchify({.tokens = static_cast<const float*>(tokens.data),
                        .image = reinterpret_cast<uint8_t*>(image_.data()),
                        .tokens_stride = tokens.stride,
                        .height = m.image_height,
                        .width = m.image_width,
                        .patch = m.patch});
}

void Engine::read_pass() {
  const Manifest& m = model_->manifest();
  const Tensor& tokens = workspace_.x_operand;
  backend_->patchify({.image = reinterpret_cast<const uint8_t*>(image_.data()),
                      .tokens = tokens.data,
                      .tokens_stride = tokens.stride,
                      .height = m.image_height,
                      .width = m.image_width,
                      .patch = m.patch});
  model_->network().read(*backend_, workspace_);
}

Engines::Engines(std::shared_ptr<const Model> model, int context, int threads)
    : model_(std::move(model)), context_(context), threads_(threads) {
  idle_.push_back(std::make_unique<Engine>(model_, context_, threads_));
  threads_ = idle_.back()->threads();
}

std::unique_ptr<Engine> Engines::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Engine> engine = std::move(idle_.back());
      idle_.pop_back();
      return engine;
    }
  }
  return std::make_unique<Engine>(model_, context_, threads_);
}

void Engines::give(std::unique_ptr<Engine> engine) noexcept {
  try {
    engine->finish();
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(engine));
  } catch (const std::exception&) {
    // a device that failed: the engine goes, and who asks next gets a new one or the error
  }
}

}  // namespace rtfm
