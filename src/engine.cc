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
      passes_(model_->network().make_passes(backend_, context)),
      context_(context),
      writings_(model_->manifest().samplers.size() * size_t(context + 1)) {
  if (backend_->records()) warm_up();
}

// Everything that frames will launch is recorded before the first one, on an empty page.
void Engine::warm_up() {
  const Buffer page(backend_, model_->network().page_bytes(*backend_));
  const std::vector<ContextPage> pages(size_t(context_), {page.data(), Mat4{}, 0});
  for (const auto& [steps, table] : model_->manifest().samplers)
    for (size_t count = 1; count <= pages.size(); ++count)
      launch_write({.context = {pages.data(), count}}, steps);
  launch_read({}, page.data());
  finish();
}

void Engine::render(const Shot& shot, int steps, uint8_t* images) {
  launch_write(shot, steps);
  backend_->download(images, passes_->image().data(), passes_->image().bytes());
}

void Engine::encode(const Shot& shot, const uint8_t* images, std::byte* page) {
  backend_->upload(passes_->image().data(), images, passes_->image().bytes());
  launch_read(shot, page);
}

void Engine::keep(const Shot& shot, std::byte* page) {
  passes_->prepare(shot, page, 0);
  passes_->keep(int(shot.context.size()));
}

void Engine::renew(const Shot& shot, std::byte* page) {
  passes_->prepare(shot, page, 0);
  passes_->renew(int(shot.context.size()));
}

void Engine::launch_write(const Shot& shot, int steps) {
  const auto& samplers = model_->manifest().samplers;
  const int64_t table = std::distance(samplers.begin(), samplers.find(steps));
  const int pages = int(shot.context.size());
  passes_->prepare(shot, nullptr, steps);
  backend_->replay(writings_[size_t(table * (context_ + 1) + pages)],
                   [&] { passes_->write(pages, steps); });
}

void Engine::launch_read(const Shot& shot, std::byte* page) {
  passes_->prepare(shot, page, 0);
  backend_->replay(reading_, [&] { passes_->read(int(shot.context.size())); });
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
