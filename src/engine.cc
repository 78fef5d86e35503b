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
      writings_(model_->manifest().samplers.size() * size_t(context + 1)),
      readings_(size_t(context + 1)),
      keepings_(size_t(context + 1)),
      renewings_(size_t(context + 1)) {
  if (backend_->records() && passes_->recordable()) warm_up();
}

template <class F>
void Engine::launch(std::unique_ptr<Recording>& recording, const F& work) {
  if (passes_->recordable())
    backend_->replay(recording, work);
  else
    work();
}

// What frames will launch is recorded before the first one, on an empty page. A window of the
// frames before grows only once, so its sizes but the last are recorded when they come.
void Engine::warm_up() {
  const Manifest& m = model_->manifest();
  const Buffer page(backend_, model_->network().page_bytes(*backend_));
  const std::vector<ContextPage> pages(size_t(context_), {page.data(), Mat4{}, 0});
  launch_read({}, page.data());
  for (size_t count = m.by_actions() ? pages.size() : 1; count <= pages.size(); ++count) {
    const Shot shot{.context = {pages.data(), count}};
    for (const auto& [steps, table] : m.samplers) launch_write(shot, steps);
    if (m.by_actions()) keep(shot, page.data());
  }
  finish();
}

void Engine::render(const Shot& shot, int steps, Pixels& images) {
  launch_write(shot, steps);
  images.take(*backend_, passes_->image().data());
}

void Engine::encode(const Shot& shot, const uint8_t* images, std::byte* page) {
  backend_->upload(passes_->image().data(), images, passes_->image().bytes());
  launch_read(shot, page);
}

void Engine::keep(const Shot& shot, std::byte* page) {
  const int pages = int(shot.context.size());
  passes_->prepare(shot, page, 0);
  launch(keepings_[size_t(pages)], [&] { passes_->keep(pages); });
}

void Engine::renew(const Shot& shot, std::byte* page) {
  const int pages = int(shot.context.size());
  passes_->prepare(shot, page, 0);
  launch(renewings_[size_t(pages)], [&] { passes_->renew(pages); });
}

void Engine::launch_write(const Shot& shot, int steps) {
  const auto& samplers = model_->manifest().samplers;
  const int64_t table = std::distance(samplers.begin(), samplers.find(steps));
  const int pages = int(shot.context.size());
  passes_->prepare(shot, nullptr, steps);
  launch(writings_[size_t(table * (context_ + 1) + pages)], [&] { passes_->write(pages, steps); });
}

void Engine::launch_read(const Shot& shot, std::byte* page) {
  const int pages = int(shot.context.size());
  passes_->prepare(shot, page, 0);
  launch(readings_[size_t(pages)], [&] { passes_->read(pages); });
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
