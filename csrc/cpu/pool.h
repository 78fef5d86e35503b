// SPDX-License-Identifier: Apache-2.0
// A fork-join pool for work of microseconds: workers spin for a while between jobs, then park.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace rtfm::cpu {

// Tasks are claimed one by one, and the caller claims too: a worker that is descheduled, parked or
// gone (after fork) delays nothing but the tasks it holds. One caller at a time. The first run()
// starts the workers; run() allocates nothing else.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {}
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Calls f(task) for task = 0..count-1 and returns when all have returned. f must not throw.
  template <class F>
  void run(int64_t count, F&& f) {
    run({[](void* context, int64_t task) { (*static_cast<F*>(context))(task); }, &f}, count);
  }

 private:
  struct Job {
    void (*call)(void* context, int64_t task);
    void* context;
  };
  void run(const Job& job, int64_t count);
  struct Worker {
    std::thread thread;
#if defined(__linux__)
    std::mutex mutex;  // of what follows
    pid_t id;
    int cpu = -1;  // where it parked; below 0 while it is awake
    cpu_set_t allowed;
    bool sent = false;  // to one CPU, until it is awake and takes `allowed` again
#endif
  };
  void start();
  bool claim_and_run(uint64_t& state);
  void work(Worker& self);
  void wait(Worker& self, uint32_t ticket);
  void spread();

  // generation << 32 | tasks not yet claimed. The fields of job_ change only while nothing is left
  // to claim, so a claim (compare-exchange on the whole word) proves that they belong to this
  // generation.
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> unfinished_{0};
  alignas(64) std::atomic<uint32_t> wake_{0};  // bumped for parked workers
  std::atomic<int> parked_{0};
  std::atomic<bool> stop_{false};
  std::atomic<void (*)(void*, int64_t)> call_{nullptr};
  std::atomic<void*> context_{nullptr};
  int threads_;  // workers and the caller; fewer than asked for where the system grants no more
  std::deque<Worker> workers_;
  int64_t process_ = 0;  // that made the workers
};

}  // namespace rtfm::cpu
