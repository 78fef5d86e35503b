// SPDX-License-Identifier: Apache-2.0
// A product without Python: product ROWS N K PRECISION, which reads x and w and writes x times w
// transposed, all in float32.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "src/device.h"

int main(int, char** argv) try {
  const auto backend = rtfm::make_backend("cpu", argv[4], 1);
  const int64_t rows = std::atoi(argv[1]), n = std::atoi(argv[2]), k = std::atoi(argv[3]);
  std::vector<float> x(size_t(rows * k)), w(size_t(n * k)), y(size_t(rows * n));
  if (std::fread(x.data(), x.size() * 4, 1, stdin) != 1) return 1;
  if (std::fread(w.data(), w.size() * 4, 1, stdin) != 1) return 1;
  const int64_t bytes = backend->weight_bytes(n, k, rtfm::DType::f32);
  void* packed = backend->allocate(bytes);
  backend->pack_weight(w.data(), n, k, rtfm::DType::f32, packed);
  backend->matmul({.x = x.data(),
                   .w = packed,
                   .bias = nullptr,
                   .gate = nullptr,
                   .y = y.data(),
                   .x_stride = k,
                   .y_stride = n,
                   .rows = rows,
                   .n = n,
                   .k = k,
                   .epilogue = rtfm::Epilogue::store});
  backend->release(packed, bytes);
  std::fwrite(y.data(), y.size() * 4, 1, stdout);
} catch (const std::exception& error) {
  std::fputs(error.what(), stderr);
  return 1;
}
