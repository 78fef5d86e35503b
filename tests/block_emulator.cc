// SPDX-License-Identifier: Apache-2.0
#include "tests/block_emulator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace rtfm::testing {

constexpr int kWarp = 32;
constexpr size_t kStack = 64 << 10;

BlockEmulator::BlockEmulator(int threads, Order order)
    : order_(order), threads_(static_cast<size_t>(threads)) {
  for (Fiber& fiber : threads_) fiber.stack = std::make_unique_for_overwrite<char[]>(kStack);
  for (std::vector<float>& lanes : lanes_) lanes.resize(threads_.size());
}

float BlockEmulator::Thread::shuffle_xor(float v, int mask) {
  std::vector<float>& lanes = block_.lanes_[shuffles_++ % 2];
  lanes[size_t(index_)] = v;
  block_.wait(index_, Stop::shuffle);
  return lanes[size_t(index_ ^ mask)];
}

void BlockEmulator::enter(unsigned low, unsigned high) {  // makecontext passes ints only
  auto* self = reinterpret_cast<BlockEmulator*>(uintptr_t(high) << 32 | low);
  Thread thread(*self, self->current_);
  (*self->body_)(thread);
  self->wait(self->current_, Stop::end);
}

void BlockEmulator::wait(int index, Stop stop) {
  threads_[size_t(index)].stop = stop;
  swapcontext(&threads_[size_t(index)].context, &scheduler_);
}

std::vector<int> BlockEmulator::ordered(int first, int last) {
  std::vector<int> indices(static_cast<size_t>(last - first));
  std::iota(indices.begin(), indices.end(), first);
  if (order_ == Order::descending) std::reverse(indices.begin(), indices.end());
  if (order_ == Order::random) std::shuffle(indices.begin(), indices.end(), random_);
  return indices;
}

BlockEmulator::Stop BlockEmulator::advance(int warp) {
  const int first = warp * kWarp, last = std::min<int>(first + kWarp, int(threads_.size()));
  for (;;) {
    for (const int index : ordered(first, last)) {
      if (threads_[size_t(index)].stop == Stop::end) continue;
      current_ = index;
      swapcontext(&scheduler_, &threads_[size_t(index)].context);
    }
    const Stop stop = threads_[size_t(first)].stop;
    for (int i = first; i < last; ++i)
      if (threads_[size_t(i)].stop != stop)
        throw std::logic_error("threads of one warp wait for different things");
    if (stop != Stop::shuffle) return stop;
  }
}

void BlockEmulator::run(const std::function<void(Thread&)>& body) {
  body_ = &body;
  std::fill(std::begin(shared_), std::end(shared_), NAN);
  const uintptr_t self = reinterpret_cast<uintptr_t>(this);
  for (Fiber& fiber : threads_) {
    fiber.stop = Stop::none;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(&enter), 2, unsigned(self),
                unsigned(self >> 32));
  }
  const int warps = (int(threads_.size()) + kWarp - 1) / kWarp;
  for (;;) {
    int ended = 0;
    for (const int warp : ordered(0, warps)) ended += advance(warp) == Stop::end;
    if (ended == warps) return;
    if (ended > 0) throw std::logic_error("some warps ended while others wait at a barrier");
  }
}

}  // namespace rtfm::testing
