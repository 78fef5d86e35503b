// SPDX-License-Identifier: Apache-2.0
// Test only: how an emulated CUDA device runs a body over groups of threads.
#pragma once

#include "tests/block_emulator.h"
#include "tests/cuda_emulator.h"

namespace rtfm::testing {

// One thread as a whole Group.
struct Serial {
  int thread() const { return 0; }
  int threads() const { return 1; }
  float shuffle_xor(float v, int) const { return v; }
  float* shared() const { return nullptr; }
  void sync() const {}
};

// A thread of the block emulator whose barriers do nothing.
struct Unsynced : BlockEmulator::Thread {
  explicit Unsynced(const BlockEmulator::Thread& thread) : BlockEmulator::Thread(thread) {}
  void sync() {}
};

// body(group) for each of `groups` groups of `threads` fibers: body(i, group)
template <class Body>
void run_groups(int64_t groups, int threads, const Body& body) {
  const Blocks blocks = cuda_emulation().blocks;
  const Order order = blocks == Blocks::ascending    ? Order::ascending
                      : blocks == Blocks::descending ? Order::descending
                                                     : Order::random;
  BlockEmulator block(threads, order);
  for (int64_t i = 0; i < groups; ++i)
    block.run([&](BlockEmulator::Thread& thread) {
      if (blocks != Blocks::unsynced) return body(i, thread);
      Unsynced unsynced(thread);
      body(i, unsynced);
    });
}

}  // namespace rtfm::testing
