// SPDX-License-Identifier: Apache-2.0
// Memory of a device, owned, and the views of it that ops take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "csrc/backend.h"

namespace rtfm {

constexpr int64_t round_up(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

// Zero-filled device memory; keeps the backend that made it alive. Move-only.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<Backend> backend, int64_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Backend> backend_;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// A row-major matrix on the device: [rows, cols], `stride` elements from row to row.
struct Tensor {
  void* data;
  int64_t rows, cols, stride;
  DType dtype;
};

// A matrix that owns its memory, laid out as the backend likes its operands or f32 activations.
class Matrix {
 public:
  Matrix() = default;
  Matrix(const std::shared_ptr<Backend>& backend, int64_t rows, int64_t cols, DType dtype);

  const Tensor& view() const { return view_; }
  operator const Tensor&() const { return view_; }
  void upload(Backend& backend, const float* dense) const;  // f32 only; dense [rows, cols]
  void download(Backend& backend, float* dense) const;      // f32 only

 private:
  Buffer buffer_;
  Tensor view_{};
};

// What a buffer or a matrix of float32 holds, on the device.
inline const float* floats(const Buffer& buffer) {
  return reinterpret_cast<const float*>(buffer.data());
}
inline const float* floats(const Matrix& matrix) {
  return static_cast<const float*>(matrix.view().data);
}

}  // namespace rtfm
