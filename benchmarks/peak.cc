// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most: arithmetic in float32, bfloat16 and int8, and reading from each
// level of its memory.
// benchmarks/phases.py compiles it for the machine at hand and runs it: `peak THREADS` prints JSON.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>
#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kAccumulators = 24;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kAccumulators = 12;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kAccumulators = 24;
#else
constexpr int kBytes = 16, kAccumulators = 12;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
typedef float Unaligned __attribute__((vector_size(kBytes), aligned(4)));
constexpr int kFloats = kBytes / 4;

volatile float sink;

// Independent chains of multiply-adds that stay in registers, of `depth` numbers in each word.
template <class Add>
double multiply_add(int64_t rounds, int depth, const Add& add) {
  Vector acc[kAccumulators];
  for (int j = 0; j < kAccumulators; ++j) acc[j] = Vector{} + float(j);  // equal ones would merge
  const Vector x = Vector{} + 0.999f, y = Vector{} + 1e-3f;
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 32
    for (int j = 0; j < kAccumulators; ++j) acc[j] = add(acc[j], x, y);
  Vector total{};
  for (const Vector& a : acc) total += a;
  sink = total[0];
  return double(rounds) * kAccumulators * kFloats * 2 * depth;
}

// Reads `bytes` again and again.
double read(const std::vector<float>& data, int64_t rounds) {
  Vector acc[8] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    for (size_t i = 0; i + 8 * kFloats <= data.size(); i += 8 * kFloats)
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j)
        acc[j] += *reinterpret_cast<const Unaligned*>(data.data() + i + j * kFloats);
    asm volatile("" ::: "memory");
  }
  Vector total{};
  for (const Vector& a : acc) total += a;
  sink = total[0];
  return double(rounds) * double(data.size()) * 4;
}

// Best of several runs: units of work per second of all threads together.
double rate(int threads, const std::function<double(int)>& work) {
  double best = 0;
  for (int repeat = 0; repeat < 25; ++repeat) {
    std::atomic<int> ready{0};
    std::vector<double> done(static_cast<size_t>(threads));
    std::vector<double> seconds(static_cast<size_t>(threads));
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t)
      all.emplace_back([&, t] {
        work(t);
        ++ready;
        while (ready < threads) {
        }
        const auto start = std::chrono::steady_clock::now();
        done[size_t(t)] = work(t);
        seconds[size_t(t)] =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      });
    for (std::thread& thread : all) thread.join();
    double total = 0;
    for (double d : done) total += d;
    best = std::max(best, total / *std::max_element(seconds.begin(), seconds.end()));
  }
  return best;
}

double read_rate(int threads, int64_t bytes) {
  std::vector<std::vector<float>> data(static_cast<size_t>(threads));
  for (auto& d : data) d.assign(size_t(bytes / 4) + 16, 1.f);
  const int64_t rounds = std::max<int64_t>(1, (int64_t{32} << 20) / bytes);
  return rate(threads, [&](int t) { return read(data[size_t(t)], rounds); });
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  const auto arithmetic = [&](const char* name, int depth, const auto& add) {
    const double most = rate(threads, [&](int) { return multiply_add(400'000, depth, add); });
    std::printf("\"%s\": %.0f, ", name, most / 1e9);
  };
  const auto reading = [&](int mib) { return read_rate(threads, int64_t{mib} << 20) / 1e9; };
  std::printf("{");
  arithmetic("float32", 1, [](Vector sum, Vector x, Vector y) { return sum * x + y; });
#ifdef __AVX512BF16__
  arithmetic("bfloat16", 2, [](Vector sum, Vector x, Vector y) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
  });
#endif
#ifdef __AVX512VNNI__
  arithmetic("int8", 4, [](Vector sum, Vector x, Vector y) {
    asm("vpdpbusd %2, %1, %0"
        : "+v"(sum)
        : "v"(x), "v"(y));  // GCC 12 copies sums around intrinsics
    return sum;
  });
#endif
  std::printf("\"l2_gbs\": %.0f, \"l3_gbs\": %.0f, \"dram_gbs\": %.0f}\n", reading(1), reading(16),
              reading(256));
}
