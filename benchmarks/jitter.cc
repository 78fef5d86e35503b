// SPDX-License-Identifier: Apache-2.0
// Arithmetic that touches no memory, on threads that begin together: what a machine makes of equal
// work. benchmarks/jitter.py compiles it as a library; one caller at a time.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

std::vector<std::thread> workers;
std::atomic<int64_t> turn{0}, busy{0};
std::atomic<int64_t> rounds{0};  // of a turn; -1: go home
volatile float sink;

void multiply_add(int64_t count) {
  float acc[16] = {};
  for (int64_t i = 0; i < count; ++i)
    for (float& a : acc) a = a * 0.999f + 0.5f;
  for (float a : acc) sink = a;
}

void work() {
  for (int64_t seen = 0;; ++seen) {
    turn.wait(seen);
    if (rounds < 0) return;
    multiply_add(rounds);
    --busy;
  }
}

void begin(int64_t count) {
  rounds = count, busy = int64_t(workers.size());
  ++turn;
  turn.notify_all();
}

}  // namespace

extern "C" void start(int threads) {
  turn = 0;
  for (int i = 1; i < threads; ++i) workers.emplace_back(work);
}

// Seconds until the last thread, of which the caller is one, has done `count` rounds.
extern "C" double run(int64_t count) {
  const auto since = std::chrono::steady_clock::now();
  begin(count);
  multiply_add(count);
  while (busy > 0) std::this_thread::yield();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

extern "C" void stop() {
  begin(-1);
  for (std::thread& worker : workers) worker.join();
  workers.clear();
}
