// SPDX-License-Identifier: Apache-2.0
// Attention and matmul of csrc/cuda on the GPU at hand: one JSON object a line. Built and run by
// cuda_ops.py, with the path of a cuBLASLt if there is one. Each case checks itself first: outputs
// poisoned, sampled rows against f32.
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "csrc/cuda/cublas.h"
#include "csrc/cuda/tensor_ops.h"

using rtfm::cuda::Cublas;
using rtfm::cuda::TensorOps;

#define CHECK(call)                                                      \
  do {                                                                   \
    const cudaError_t error_ = (call);                                   \
    if (error_ != cudaSuccess) {                                         \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, \
                   cudaGetErrorString(error_));                          \
      std::exit(1);                                                      \
    }                                                                    \
  } while (0)

namespace {

constexpr int kSamples = 16;   // rows that are checked
constexpr int kReplays = 15;   // of the graph; the median counts
constexpr int kLaunches = 20;  // in the graph, at least
constexpr int kRanks = 8;      // proposals of cuBLASLt for a shape

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// ---- Memory and data.

std::vector<void*> held;
void* hold(int64_t bytes) {
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, size_t(bytes)));
  CHECK(cudaMemset(memory, 0, size_t(bytes)));
  held.push_back(memory);
  return memory;
}
void release_all() {
  for (void* memory : held) CHECK(cudaFree(memory));
  held.clear();
}

__device__ float normal(uint64_t at) {  // splitmix64, then the sum of four uniform parts
  at = (at + 1) * 0x9e3779b97f4a7c15ull;
  at = (at ^ (at >> 30)) * 0xbf58476d1ce4e5b9ull;
  at = (at ^ (at >> 27)) * 0x94d049bb133111ebull;
  at ^= at >> 31;
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += float(at >> (16 * i) & 0xffff) / 65536;
  return (sum - 2) * 1.7320508f;
}
template <class T>
__global__ void fill(T* x, int64_t rows, int64_t cols, int64_t stride, float scale, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < rows * cols;
       i += int64_t(gridDim.x) * blockDim.x)
    x[i / cols * stride + i % cols] = T(normal(seed * 0x100000001ull + i) * scale);
}
uint64_t seed = 0;
template <class T>
T* random(int64_t rows, int64_t cols, int64_t padded_rows, int64_t stride, float scale) {
  T* x = static_cast<T*>(hold(padded_rows * stride * int64_t(sizeof(T))));
  fill<<<1024, 256>>>(x, rows, cols, stride, scale, ++seed);
  CHECK(cudaGetLastError());
  return x;
}

// ---- References in f32, one block for each sampled row (and head).

__global__ void attention_reference(rtfm::AttentionArgs a, int64_t every, float* scores,
                                    float* want) {
  const int64_t row = blockIdx.x * every, head = blockIdx.y, keys = a.slots * a.tokens;
  const int64_t padded = (a.tokens + 63) / 64 * 64, queries = (a.tokens + 127) / 128 * 128;
  const auto* q = static_cast<const __nv_bfloat16*>(a.q) + (head * queries + row) * a.dim;
  const auto* context = static_cast<const __nv_bfloat16*>(a.context);
  float* s = scores + (blockIdx.x * a.heads + head) * keys;
  const auto at = [&](int64_t key, int64_t values) {
    const int64_t part = 2 * (key / a.tokens) + values, shared = head * a.kv_heads / a.heads;
    return context + ((part * a.kv_heads + shared) * padded + key % a.tokens) * a.dim;
  };
  for (int64_t key = threadIdx.x; key < keys; key += blockDim.x) {
    float sum = 0;
    for (int64_t d = 0; d < a.dim; ++d) sum += float(q[d]) * float(at(key, 0)[d]);
    s[key] = sum;
  }
  __syncthreads();
  float most = -INFINITY, total = 0;
  for (int64_t key = 0; key < keys; ++key) most = fmaxf(most, s[key]);
  for (int64_t key = 0; key < keys; ++key) total += exp2f(s[key] - most);
  for (int64_t d = threadIdx.x; d < a.dim; d += blockDim.x) {
    float sum = 0;
    for (int64_t key = 0; key < keys; ++key) sum += exp2f(s[key] - most) * float(at(key, 1)[d]);
    want[(blockIdx.x * a.heads + head) * a.dim + d] = sum / total;
  }
}

template <class T>
__global__ void matmul_reference(rtfm::MatmulArgs a, int64_t w_stride, const float* x_scale,
                                 const float* w_scale, const float* before, int64_t every,
                                 float* want) {
  const int64_t row = blockIdx.x * every;
  const T* x = static_cast<const T*>(a.x) + row * a.x_stride;
  for (int64_t col = threadIdx.x; col < a.n; col += blockDim.x) {
    const T* w = static_cast<const T*>(a.w) + col * w_stride;
    float r = 0;
    for (int64_t i = 0; i < a.k; ++i) r += float(x[i]) * float(w[i]);
    if (x_scale) r *= x_scale[row] * w_scale[col];
    if (a.bias) r += a.bias[col];
    if (a.epilogue == rtfm::Epilogue::gelu)
      r = 0.5f * r * (1 + tanhf(0.7978845608f * (r + 0.044715f * r * r * r)));
    if (a.epilogue == rtfm::Epilogue::gelu_erf) r = 0.5f * r * (1 + erff(0.70710678f * r));
    if (a.epilogue == rtfm::Epilogue::silu) r = r / (1 + expf(-r));
    if (a.epilogue == rtfm::Epilogue::gated_residual)
      r = before[row * a.y_stride + col] + a.gate[col] * r;
    want[blockIdx.x * a.n + col] = r;
  }
}

// ||got - want|| / ||want|| over sampled rows of y [rows, stride]; huge if poison is left in y.
template <class T>
double error_of(const T* y, int64_t rows, int64_t cols, int64_t stride, int64_t every,
                const float* want) {
  std::vector<T> got(size_t(rows * stride));
  std::vector<float> expected(size_t((rows + every - 1) / every * cols));
  CHECK(cudaDeviceSynchronize());
  CHECK(cudaMemcpy(got.data(), y, got.size() * sizeof(T), cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(expected.data(), want, expected.size() * 4, cudaMemcpyDeviceToHost));
  double difference = 0, size = 0, sum = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t col = 0; col < cols; ++col) {
      const double value = float(got[size_t(row * stride + col)]);
      sum += value;
      if (row % every) continue;
      const double right = expected[size_t(row / every * cols + col)];
      difference += (value - right) * (value - right);
      size += right * right;
    }
  return std::isfinite(sum) ? std::sqrt(difference / size) : 1e30;
}

// ---- Timing.

// Microseconds of one launch: the median over replays of a graph that goes round the input sets.
using Launch = std::function<cudaError_t(int set, cudaStream_t)>;
double time_of(int sets, const Launch& launch) {
  cudaStream_t stream;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const int launches = int(round_up(kLaunches, sets));
  cudaGraph_t graph;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) CHECK(launch(i % sets, stream));
  CHECK(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t run;
  CHECK(cudaGraphInstantiate(&run, graph, 0));
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  std::vector<float> times;
  for (int i = 0; i < kReplays + 3; ++i) {
    CHECK(cudaEventRecord(start, stream));
    CHECK(cudaGraphLaunch(run, stream));
    CHECK(cudaEventRecord(stop, stream));
    CHECK(cudaEventSynchronize(stop));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 3) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  CHECK(cudaGraphExecDestroy(run));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
  return double(times[times.size() / 2]) * 1e3 / launches;
}

// As many input sets as exceed the L2 cache twice.
int sets_for(int64_t bytes) {
  int device = 0, l2 = 0;
  CHECK(cudaGetDevice(&device));
  CHECK(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device));
  return int(std::clamp<int64_t>(2 * int64_t(l2) / bytes + 1, 2, 64));
}

// ---- Cases.

// group: heads of queries that share one of keys and values.
void time_attention(const TensorOps& ops, int64_t tokens, int64_t slots, int64_t heads, int64_t dim,
                    int64_t group = 1) {
  const int64_t keys = round_up(tokens, 64), queries = round_up(tokens, 128);
  const int64_t rows = slots * 2 * (heads / group) * keys, stride = round_up(heads * dim, 64);
  const int sets = sets_for(rows * dim * 2);
  std::vector<rtfm::AttentionArgs> args;
  for (int i = 0; i < sets; ++i)
    args.push_back({.q = random<__nv_bfloat16>(heads * queries, dim, heads * queries, dim,
                                               1 / std::sqrt(float(dim))),
                    .context = random<__nv_bfloat16>(rows, dim, rows, dim, 1),
                    .y = hold(tokens * stride * 2),
                    .y_stride = stride,
                    .slots = slots,
                    .tokens = tokens,
                    .heads = heads,
                    .kv_heads = heads / group,
                    .dim = dim});
  void* workspace = hold(std::max<int64_t>(ops.attention_workspace(args[0]), 256));
  CHECK(cudaMemset(args[0].y, 0xff, size_t(tokens * stride * 2)));
  CHECK(ops.attention(args[0], workspace, nullptr));
  const int64_t every = std::max<int64_t>(1, tokens / kSamples);
  const unsigned samples = unsigned((tokens + every - 1) / every);
  auto* scores = static_cast<float*>(hold(int64_t(samples) * heads * slots * tokens * 4));
  auto* want = static_cast<float*>(hold(int64_t(samples) * heads * dim * 4));
  attention_reference<<<dim3(samples, unsigned(heads)), 256>>>(args[0], every, scores, want);
  CHECK(cudaGetLastError());
  const double error = error_of(static_cast<const __nv_bfloat16*>(args[0].y), tokens, heads * dim,
                                stride, every, want);
  const double us = time_of(
      sets, [&](int i, cudaStream_t s) { return ops.attention(args[size_t(i)], workspace, s); });
  const double flop = 4.0 * tokens * tokens * slots * heads * dim;
  std::printf(
      "{\"op\": \"attention\", \"dtype\": \"bf16\", \"tokens\": %ld, \"slots\": %ld, "
      "\"heads\": %ld, \"group\": %ld, \"dim\": %ld, \"us\": %.3f, \"tflops\": %.2f, "
      "\"error\": %.3g}\n",
      long(tokens), long(slots), long(heads), long(group), long(dim), us, flop / us * 1e-6, error);
  std::fflush(stdout);
  release_all();
}

struct Fp8 {
  void* q;
  float* scale;
};
Fp8 quantized(const TensorOps& ops, const void* x, int64_t rows, int64_t padded_rows, int64_t cols,
              int64_t stride) {
  const int64_t q_stride = round_up(cols, 128);
  const Fp8 made{hold(padded_rows * q_stride), static_cast<float*>(hold(rows * 4))};
  CHECK(ops.quantize_rows({x, made.q, made.scale, stride, q_stride, rows, cols}, nullptr));
  return made;
}

std::vector<std::unique_ptr<Cublas>> cublas;  // by the rank of what multiplies; none without it

void open_cublas(const char* path) {
  void* pinned = nullptr;
  CHECK(cudaHostAlloc(&pinned, Cublas::kPinned, cudaHostAllocDefault));
  for (int rank = 0; rank < kRanks; ++rank) {
    cublas.push_back(std::make_unique<Cublas>(rank));
    CHECK(cublas.back()->open(path, nullptr, pinned));
  }
  CHECK(cudaFreeHost(pinned));
}

// What cuBLASLt adds to a row: the error and the time of what it ranks first, which the runtime
// takes, and the fastest of what it ranks up to eighth. Nothing where the first is not supported.
std::string beside(int sets, const std::vector<rtfm::MatmulArgs>& args,
                   const std::function<double(const Launch&)>& error_of_first) {
  double first = 0, best = 0, error = 0;
  for (size_t rank = 0; rank < cublas.size(); ++rank) {
    const Launch launch = [&](int i, cudaStream_t s) {
      return cublas[rank]->matmul(args[size_t(i)], s);
    };
    if (launch(1, nullptr) != cudaSuccess) {  // loads its code before anything is recorded
      if (rank == 0) return "";
      continue;
    }
    if (rank == 0) error = error_of_first(launch);
    const double us = time_of(sets, launch);
    if (rank == 0) first = us;
    best = best > 0 ? std::min(best, us) : us;
  }
  char text[128];
  std::snprintf(text, sizeof text,
                ", \"cublas_us\": %.3f, \"cublas_best_us\": %.3f, \"cublas_error\": %.3g", first,
                best, error);
  return text;
}

void time_matmul(const TensorOps& ops, bool fp8, int64_t rows, int64_t n, int64_t k,
                 rtfm::Epilogue epilogue, bool biased) {
  const int64_t stride = round_up(k, 64), y_stride = round_up(n, 64);
  const int64_t x_rows = round_up(rows, 128), w_rows = round_up(n, 128);
  const bool gated = epilogue == rtfm::Epilogue::gated_residual;
  const bool operand = !gated && epilogue != rtfm::Epilogue::store;
  const int64_t y_bytes = x_rows * y_stride * (operand ? 2 : 4);
  const int sets = sets_for((rows * k + n * k) * (fp8 ? 1 : 2));
  std::vector<rtfm::MatmulArgs> args;
  std::vector<rtfm::cuda::Fp8Scales> scales;
  for (int i = 0; i < sets; ++i) {
    const void* x = random<__nv_bfloat16>(rows, k, x_rows, stride, 1);
    const void* w = random<__nv_bfloat16>(n, k, w_rows, stride, 1 / std::sqrt(float(k)));
    rtfm::MatmulArgs a{.x = x,
                       .w = w,
                       .bias = biased ? random<float>(1, n, 1, n, 1) : nullptr,
                       .gate = gated ? random<float>(1, n, 1, n, 1) : nullptr,
                       .y = hold(y_bytes),
                       .x_stride = stride,
                       .y_stride = y_stride,
                       .rows = rows,
                       .n = n,
                       .k = k,
                       .epilogue = epilogue};
    scales.push_back({});
    if (fp8) {
      const Fp8 xq = quantized(ops, x, rows, x_rows, k, stride);
      const Fp8 wq = quantized(ops, w, n, w_rows, k, stride);
      a.x = xq.q;
      a.w = wq.q;
      a.x_stride = round_up(k, 128);
      scales.back() = {xq.scale, wq.scale};
    }
    args.push_back(a);
  }
  void* workspace = hold(std::max<int64_t>(ops.matmul_workspace(rows, n, k), 256));
  const Launch launch = [&](int i, cudaStream_t s) {
    const size_t at = size_t(i);
    return fp8 ? ops.matmul_fp8(args[at], scales[at], workspace, s)
               : ops.matmul(args[at], workspace, s);
  };

  const rtfm::MatmulArgs& a = args[0];
  float* before = gated ? random<float>(rows, n, x_rows, y_stride, 1) : nullptr;
  const int64_t every = std::max<int64_t>(1, rows / kSamples);
  const unsigned samples = unsigned((rows + every - 1) / every);
  auto* want = static_cast<float*>(hold(int64_t(samples) * n * 4));
  if (fp8)
    matmul_reference<__nv_fp8_e4m3>
        <<<samples, 256>>>(a, round_up(k, 128), scales[0].x, scales[0].w, before, every, want);
  else
    matmul_reference<__nv_bfloat16>
        <<<samples, 256>>>(a, stride, nullptr, nullptr, before, every, want);
  CHECK(cudaGetLastError());
  // the residual adds to what is there; the others must overwrite the poison
  const auto error_of_launch = [&](const Launch& checked) {
    if (gated)
      CHECK(cudaMemcpy(a.y, before, size_t(y_bytes), cudaMemcpyDeviceToDevice));
    else
      CHECK(cudaMemset(a.y, 0xff, size_t(y_bytes)));
    CHECK(checked(0, nullptr));
    return operand
               ? error_of(static_cast<const __nv_bfloat16*>(a.y), rows, n, y_stride, every, want)
               : error_of(static_cast<const float*>(a.y), rows, n, y_stride, every, want);
  };
  const double error = error_of_launch(launch);
  const double us = time_of(sets, launch);
  const std::string more = fp8 ? "" : beside(sets, args, error_of_launch);
  const char* names[] = {"store", "gelu", "gated", "gelu_erf", "silu"};
  std::printf(
      "{\"op\": \"matmul\", \"dtype\": \"%s\", \"rows\": %ld, \"n\": %ld, \"k\": %ld, "
      "\"epilogue\": \"%s\", \"bias\": %s, \"us\": %.3f, \"tflops\": %.2f, \"error\": %.3g%s}\n",
      fp8 ? "e4m3" : "bf16", long(rows), long(n), long(k), names[int(epilogue)],
      biased ? "true" : "false", us, 2.0 * rows * n * k / us * 1e-6, error, more.c_str());
  std::fflush(stdout);
  release_all();
}

void describe_device() {
  int device = 0, clock_khz = 0;
  CHECK(cudaGetDevice(&device));
  cudaDeviceProp about;
  CHECK(cudaGetDeviceProperties(&about, device));
  CHECK(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, device));
  int driver = 0;
  CHECK(cudaDriverGetVersion(&driver));
  std::printf(
      "{\"device\": \"%s\", \"capability\": [%d, %d], \"sms\": %d, \"clock_mhz\": %d, "
      "\"driver\": %d, \"cublas\": \"%s\"}\n",
      about.name, about.major, about.minor, about.multiProcessorCount, clock_khz / 1000, driver,
      cublas.empty() ? "" : cublas[0]->about());
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) open_cublas(arguments[1]);
  describe_device();
  TensorOps ops;
  CHECK(ops.prepare());
  time_attention(ops, 64, 5, 4, 64);
  for (const int64_t tokens : {256, 512}) {
    time_attention(ops, tokens, 9, 20, 64);
    time_attention(ops, tokens, 9, 16, 128);
  }
  time_attention(ops, 256, 128, 16, 128);
  time_attention(ops, 1024, 32, 16, 128);
  time_attention(ops, 128, 17, 32, 64, 2);
  time_attention(ops, 512, 17, 32, 64, 2);

  using rtfm::Epilogue;
  for (const bool fp8 : {false, true}) {
    if (fp8 && !ops.has_fp8()) break;
    time_matmul(ops, fp8, 64, 256, 256, Epilogue::store, true);
    time_matmul(ops, fp8, 1024, 3072, 768, Epilogue::gelu_erf, true);
    time_matmul(ops, fp8, 512, 8192, 2048, Epilogue::silu, true);
    for (const int64_t width : {1280, 2048})
      for (const int64_t rows : {256, 512, 1024}) {
        time_matmul(ops, fp8, rows, 3 * width, width, Epilogue::store, false);
        time_matmul(ops, fp8, rows, width, width, Epilogue::gated_residual, false);
        time_matmul(ops, fp8, rows, 4 * width, width, Epilogue::gelu, true);
        time_matmul(ops, fp8, rows, width, 4 * width, Epilogue::gated_residual, true);
        if (fp8 || cublas.empty()) continue;  // what cuBLASLt has without a bias
        time_matmul(ops, fp8, rows, 4 * width, width, Epilogue::gelu, false);
        time_matmul(ops, fp8, rows, width, 4 * width, Epilogue::gated_residual, false);
      }
  }
  cublas.clear();
  return 0;
}
