// SPDX-License-Identifier: Apache-2.0
// Seconds per launch of memory-bound ops, for benchmarks/cuda_memory.py: bound by internals.cc.
// Launches are recorded where the device can and take their operands in turn from several sets, so
// that caches help no more than they do in a model.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "csrc/cuda/body.h"
#include "src/device.h"
#include "src/tensor.h"

namespace py = pybind11;
using namespace rtfm;

namespace {

constexpr int64_t kBeyondCaches = int64_t{256} << 20;  // bytes that all sets take together
constexpr int kMostSets = 64;

struct Timer {
  std::shared_ptr<Backend> b;
  int calls, rounds;
  std::vector<float> noise;

  Timer(const std::string& device, int calls, int rounds)
      : b(make_backend(device, "auto", 0)), calls(calls), rounds(rounds), noise(1 << 20) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : noise) x = normal(random);
  }

  static int sets(int64_t bytes) {
    return int(std::clamp<int64_t>(kBeyondCaches / std::max<int64_t>(bytes, 1), 1, kMostSets));
  }

  // Normal numbers, as f32 or as operands.
  Buffer filled(int64_t bytes, DType dtype) const {
    Buffer buffer(b, bytes);
    const int64_t chunk = std::min(bytes, int64_t(noise.size()) * size_of(dtype));
    std::vector<float> wide(noise.begin(), noise.begin() + chunk / size_of(dtype));
    std::vector<uint16_t> half(wide.size());
    std::transform(wide.begin(), wide.end(), half.begin(), cuda::to_half);
    const void* from = dtype == DType::f32 ? static_cast<const void*>(wide.data()) : half.data();
    for (int64_t at = 0; at < bytes; at += chunk)
      b->upload(buffer.data() + at, from, std::min(chunk, bytes - at));
    return buffer;
  }
  std::vector<Buffer> filled(int count, int64_t bytes, DType dtype) const {
    std::vector<Buffer> buffers;
    for (int i = 0; i < count; ++i) buffers.push_back(filled(bytes, dtype));
    return buffers;
  }
  template <class T>
  static T* as(const Buffer& buffer) {
    return reinterpret_cast<T*>(buffer.data());
  }

  // Seconds per call of op(i), one value a round.
  template <class F>
  std::vector<double> time(const F& op) const {
    std::unique_ptr<Recording> recording;
    const auto work = [&] {
      for (int i = 0; i < calls; ++i) op(i);
    };
    std::vector<double> seconds;
    for (int round = -2; round < rounds; ++round) {  // two that do not count
      b->finish();
      const auto start = std::chrono::steady_clock::now();
      b->replay(recording, work);
      b->finish();
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
      if (round >= 0) seconds.push_back(passed.count() / calls);
    }
    return seconds;
  }
};

std::vector<double> time_norm(const std::string& device, int64_t rows, int64_t cols, int calls,
                              int rounds) {
  const Timer t(device, calls, rounds);
  const DType operand = t.b->operand_dtype();
  const int64_t x_stride = t.b->row_stride(cols, DType::f32);
  const int64_t y_stride = t.b->row_stride(cols, operand);
  const int64_t x_bytes = t.b->padded_rows(rows) * x_stride * 4;
  const int64_t y_bytes = t.b->padded_rows(rows) * y_stride * size_of(operand);
  const int sets = Timer::sets(x_bytes + y_bytes);
  const auto x = t.filled(sets, x_bytes, DType::f32), y = t.filled(sets, y_bytes, operand);
  const Buffer vectors = t.filled(2 * cols * 4, DType::f32);
  return t.time([&](int i) {
    t.b->norm_modulate({.x = Timer::as<float>(x[size_t(i % sets)]),
                        .scale = Timer::as<float>(vectors),
                        .shift = Timer::as<float>(vectors) + cols,
                        .y = y[size_t(i % sets)].data(),
                        .x_stride = x_stride,
                        .y_stride = y_stride,
                        .rows = rows,
                        .cols = cols,
                        .eps = 1e-6f,
                        .norm = Norm::rms});
  });
}

std::vector<double> time_gather(const std::string& device, int64_t layers, int64_t pages,
                                int64_t tokens, int64_t heads, int64_t dim, int calls, int rounds) {
  const Timer t(device, calls, rounds);
  const DType operand = t.b->operand_dtype();
  const int64_t page = layers * 2 * heads * tokens * dim * size_of(operand);
  const int64_t slot = t.b->slot_bytes(heads, tokens, dim);
  const auto held = t.filled(int(pages), page, operand);
  const Buffer context(t.b, layers * (1 + pages) * slot), inputs(t.b, sizeof(StepInputs));
  StepInputs step{};
  for (size_t i = 0; i < held.size(); ++i) {
    step.pages[i] = held[i].data();
    std::copy_n(t.noise.data() + 16 * i, 16, step.transforms[i]);
  }
  t.b->upload(inputs.data(), &step, sizeof step);
  return t.time([&](int) {
    t.b->gather({.inputs = Timer::as<StepInputs>(inputs),
                 .context = context.data(),
                 .first_page = 0,
                 .pages = pages,
                 .slots = 1 + pages,
                 .slot_bytes = slot,
                 .first_layer = 0,
                 .layers = layers,
                 .tokens = tokens,
                 .heads = heads,
                 .dim = dim,
                 .camera_dims = dim / 2});
  });
}

}  // namespace

void bind_time(py::module_& m) {
  m.def("time_norm", &time_norm, py::arg("device"), py::arg("rows"), py::arg("cols"),
        py::arg("calls"), py::arg("rounds"));
  m.def("time_gather", &time_gather, py::arg("device"), py::arg("layers"), py::arg("pages"),
        py::arg("tokens"), py::arg("heads"), py::arg("dim"), py::arg("calls"), py::arg("rounds"));
}
