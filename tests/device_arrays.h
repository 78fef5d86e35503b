// SPDX-License-Identifier: Apache-2.0
// NumPy arrays on a device and back: what the bindings of single ops and passes share.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "src/check.h"
#include "src/tensor.h"

namespace rtfm::testing {

namespace py = pybind11;

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;  // such as images

inline uint16_t to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t h) {
  const uint32_t u = uint32_t(h) << 16;
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

// Operands as they lie in pages: [rows, cols], dense.
inline Tensor dense_operands(const Backend& b, std::byte* data, int64_t rows, int64_t cols) {
  return {data, rows, cols, cols, b.operand_dtype()};
}

// Dense f32 [rows, cols] to a matrix on the device, and from one.
inline void to_device(Backend& b, const Tensor& to, const float* dense) {
  std::vector<uint16_t> half(static_cast<size_t>(to.cols));
  for (int64_t r = 0; r < to.rows; ++r, dense += to.cols) {
    void* row = static_cast<std::byte*>(to.data) + r * to.stride * size_of(to.dtype);
    if (to.dtype == DType::bf16) std::transform(dense, dense + to.cols, half.begin(), to_bf16);
    b.upload(row, to.dtype == DType::f32 ? static_cast<const void*>(dense) : half.data(),
             to.cols * size_of(to.dtype));
  }
}
inline void to_host(Backend& b, const Tensor& from, float* dense) {
  std::vector<uint16_t> half(static_cast<size_t>(from.cols));
  for (int64_t r = 0; r < from.rows; ++r, dense += from.cols) {
    const void* row = static_cast<std::byte*>(from.data) + r * from.stride * size_of(from.dtype);
    b.download(from.dtype == DType::f32 ? static_cast<void*>(dense) : half.data(), row,
               from.cols * size_of(from.dtype));
    if (from.dtype == DType::bf16) std::transform(half.begin(), half.end(), dense, from_bf16);
  }
}

// Also checks that the op kept to its columns: kernels rely on the zeros of the padding.
inline Array to_array(Backend& b, const Tensor& t) {
  std::vector<std::byte> padding(static_cast<size_t>((t.stride - t.cols) * size_of(t.dtype)));
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t at = (r * t.stride + t.cols) * size_of(t.dtype);
    b.download(padding.data(), static_cast<const std::byte*>(t.data) + at, int64_t(padding.size()));
    for (const std::byte value : padding)
      check<Error>(value == std::byte{0}, "an op wrote beyond column ", t.cols, " of row ", r);
  }
  Array y({t.rows, t.cols});
  to_host(b, t, y.mutable_data());
  return y;
}

// A device, and arrays on it.
struct DeviceArrays {
  std::shared_ptr<Backend> b;

  Matrix operand(const Array& x) const {
    Matrix m(b, x.shape(0), x.shape(1), b->operand_dtype());
    to_device(*b, m, x.data());
    return m;
  }
  Matrix f32(const Array& x) const {
    Matrix m(b, x.shape(0), x.shape(1), DType::f32);
    m.upload(*b, x.data());
    return m;
  }
  Buffer vector(const Array& x) const { return buffer(x.data(), x.size() * 4); }
  Buffer bytes(const Bytes& x) const { return buffer(x.data(), x.size()); }
  Buffer inputs(const StepInputs& step) const { return buffer(&step, sizeof step); }
  Array dense(const Tensor& t) const { return to_array(*b, t); }

 private:
  Buffer buffer(const void* data, int64_t bytes) const {
    Buffer made(b, bytes);
    b->upload(made.data(), data, bytes);
    return made;
  }
};

}  // namespace rtfm::testing
