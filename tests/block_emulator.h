// SPDX-License-Identifier: Apache-2.0
// Test only: one block of a GPU on one host thread. Every thread of the block is a fiber; barriers
// and shuffles switch between them. Between barriers the warps run one after another in a chosen
// order, so that a body which lacks a barrier gives other results in another order.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

namespace rtfm::testing {

enum class Order { ascending, descending, random };

class BlockEmulator {
 public:
  // What a body sees: a Group of csrc/cuda/body.h.
  class Thread {
   public:
    Thread(BlockEmulator& block, int index) : block_(block), index_(index) {}
    int thread() const { return index_; }
    int threads() const { return int(block_.threads_.size()); }
    float shuffle_xor(float v, int mask);
    float* shared() { return block_.shared_; }
    void sync() { block_.wait(index_, Stop::barrier); }

   private:
    BlockEmulator& block_;
    int index_;
    int shuffles_ = 0;
  };

  BlockEmulator(int threads, Order order);

  // body(thread) in every thread of the block. Throws std::logic_error where threads of a warp, or
  // warps, wait for different things.
  void run(const std::function<void(Thread&)>& body);

 private:
  enum class Stop { none, shuffle, barrier, end };
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Stop stop;
  };

  static void enter(unsigned low, unsigned high);
  void wait(int index, Stop stop);
  Stop advance(int warp);  // until its threads stand at a barrier, or have ended
  std::vector<int> ordered(int first, int last);

  Order order_;
  std::mt19937 random_{1};
  std::vector<Fiber> threads_;
  std::vector<float> lanes_[2];  // of even and odd shuffles: a warp is at most one ahead of itself
  float shared_[32];
  int current_ = 0;
  const std::function<void(Thread&)>* body_ = nullptr;
  ucontext_t scheduler_;
};

}  // namespace rtfm::testing
