// SPDX-License-Identifier: Apache-2.0
#include "src/tensor.h"

#include <utility>

#include "src/check.h"

namespace rtfm {

Buffer::Buffer(std::shared_ptr<Backend> backend, int64_t bytes)
    : backend_(std::move(backend)),
      data_(static_cast<std::byte*>(backend_->allocate(bytes))),
      bytes_(bytes) {}

Buffer::~Buffer() {
  if (data_) backend_->release(data_, bytes_);
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(backend_, other.backend_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Matrix::Matrix(const std::shared_ptr<Backend>& backend, int64_t rows, int64_t cols, DType dtype) {
  const int64_t stride = backend->row_stride(cols, dtype);
  buffer_ = Buffer(backend, backend->padded_rows(rows) * stride * size_of(dtype));
  view_ = {buffer_.data(), rows, cols, stride, dtype};
}

void Matrix::upload(Backend& backend, const float* dense) const {
  check<Error>(view_.dtype == DType::f32, "[upload] expected an f32 matrix");
  for (int64_t r = 0; r < view_.rows; ++r)
    backend.upload(static_cast<float*>(view_.data) + r * view_.stride, dense + r * view_.cols,
                   view_.cols * 4);
}

void Matrix::download(Backend& backend, float* dense) const {
  check<Error>(view_.dtype == DType::f32, "[download] expected an f32 matrix");
  for (int64_t r = 0; r < view_.rows; ++r)
    backend.download(dense + r * view_.cols, static_cast<float*>(view_.data) + r * view_.stride,
                     view_.cols * 4);
}

}  // namespace rtfm
