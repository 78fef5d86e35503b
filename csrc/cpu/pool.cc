// SPDX-License-Identifier: Apache-2.0
#include "csrc/cpu/pool.h"

#include <chrono>
#include <system_error>

#if defined(__linux__)
#include <unistd.h>
#endif

#include "csrc/os/os.h"

namespace rtfm::cpu {
namespace {

// Long enough to bridge the gaps inside a step, short enough to be quiet between steps.
constexpr auto kSpin = std::chrono::microseconds(80);
constexpr int kPausesPerLook = 32;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

uint32_t unclaimed(uint64_t state) { return uint32_t(state); }

}  // namespace

void Pool::start() {
  process_ = os::process();
  try {
    while (int(workers_.size()) + 1 < threads_) {
      Worker& worker = workers_.emplace_back();
      worker.thread = std::thread([this, &worker] { work(worker); });
    }
  } catch (const std::system_error&) {
    workers_.pop_back();
    threads_ = int(workers_.size()) + 1;
  }
}

Pool::~Pool() {
  stop_ = true;
  wake_.fetch_add(1);
  wake_.notify_all();
  for (Worker& worker : workers_)
    if (os::process() == process_)
      worker.thread.join();
    else
      worker.thread.detach();  // after fork the thread exists in the parent only
}

#if defined(__linux__)

static int first_beside(const cpu_set_t& taken, const cpu_set_t& allowed) {
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &allowed) && !CPU_ISSET(cpu, &taken)) return cpu;
  return -1;
}

// Keeps parked workers from waking on the caller's CPU, and on each other's. Linux would see to
// that where a CPU's cache is known to be shared and idle CPUs are known to be idle; on virtual
// machines often neither is, and a worker that wakes behind the caller sleeps through most of a
// step.
void Pool::spread() {
  if (os::process() != process_) return;
  cpu_set_t taken;
  CPU_ZERO(&taken);
  const int here = sched_getcpu();
  CPU_SET(here, &taken);
  for (Worker& worker : workers_) {
    const std::unique_lock lock(worker.mutex, std::try_to_lock);
    if (!lock || worker.cpu < 0 || worker.sent) continue;
    if (sched_getaffinity(worker.id, sizeof worker.allowed, &worker.allowed) != 0) continue;
    cpu_set_t there = worker.allowed;
    CPU_CLR(here, &there);
    if (CPU_ISSET(worker.cpu, &taken)) {
      worker.cpu = first_beside(taken, worker.allowed);
      if (worker.cpu < 0) return;  // more threads than CPUs
      CPU_ZERO(&there);
      CPU_SET(worker.cpu, &there);
    }
    CPU_SET(worker.cpu, &taken);
    worker.sent = sched_setaffinity(worker.id, sizeof there, &there) == 0;
  }
}

void Pool::wait(Worker& self, uint32_t ticket) {
  {
    const std::lock_guard lock(self.mutex);
    self.id = gettid();
    self.cpu = sched_getcpu();
  }
  wake_.wait(ticket);
  const std::lock_guard lock(self.mutex);
  self.cpu = -1;
  if (self.sent) sched_setaffinity(0, sizeof self.allowed, &self.allowed);
  self.sent = false;
}

#else

void Pool::spread() {}
void Pool::wait(Worker&, uint32_t ticket) { wake_.wait(ticket); }

#endif

bool Pool::claim_and_run(uint64_t& state) {
  while (unclaimed(state) > 0) {
    const auto call = call_.load(std::memory_order_relaxed);
    void* context = context_.load(std::memory_order_relaxed);
    if (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel,
                                      std::memory_order_acquire))
      continue;
    call(context, int64_t(unclaimed(state)) - 1);
    unfinished_.fetch_sub(1, std::memory_order_release);
    return true;
  }
  return false;
}

void Pool::run(const Job& job, int64_t count) {
  if (count <= 0) return;
  if (int(workers_.size()) + 1 < threads_) start();
  if (workers_.empty() || count == 1) {
    for (int64_t task = 0; task < count; ++task) job.call(job.context, task);
    return;
  }
  call_.store(job.call, std::memory_order_relaxed);
  context_.store(job.context, std::memory_order_relaxed);
  unfinished_.store(count, std::memory_order_relaxed);
  uint64_t state = ((state_.load(std::memory_order_relaxed) >> 32) + 1) << 32 | uint64_t(count);
  state_.store(state, std::memory_order_seq_cst);
  if (parked_.load(std::memory_order_seq_cst) > 0) {
    spread();
    wake_.fetch_add(1, std::memory_order_seq_cst);
    wake_.notify_all();
  }
  while (claim_and_run(state)) state = state_.load(std::memory_order_acquire);
  for (int looks = 0; unfinished_.load(std::memory_order_acquire) > 0; ++looks) {
    if (looks < 2000)
      pause();
    else
      std::this_thread::yield();  // a worker lost its core while it holds a task
  }
}

void Pool::work(Worker& self) {
  auto idle_since = std::chrono::steady_clock::now();
  while (!stop_.load(std::memory_order_relaxed)) {
    uint64_t state = state_.load(std::memory_order_acquire);
    if (claim_and_run(state)) {
      idle_since = std::chrono::steady_clock::now();
      continue;
    }
    for (int i = 0; i < kPausesPerLook && state_.load(std::memory_order_relaxed) == state; ++i)
      pause();
    if (state_.load(std::memory_order_relaxed) != state ||
        std::chrono::steady_clock::now() - idle_since < kSpin)
      continue;
    const uint32_t ticket = wake_.load(std::memory_order_seq_cst);
    parked_.fetch_add(1, std::memory_order_seq_cst);
    // a job published before parked_ was raised would not have woken us: look once more
    if (unclaimed(state_.load(std::memory_order_seq_cst)) == 0 && !stop_) wait(self, ticket);
    parked_.fetch_sub(1, std::memory_order_seq_cst);
    idle_since = std::chrono::steady_clock::now();
  }
}

}  // namespace rtfm::cpu
