// SPDX-License-Identifier: Apache-2.0
// Convolutions over planes, channels last.
#pragma once

#include <string>

#include "src/layers.h"

namespace rtfm {

struct Plane {
  Tensor values;  // [rows * cols, channels] operand
  int64_t rows, cols;
};

struct Kernel {
  int64_t side = 3, stride = 1, padding = 1;
  int64_t zoom = 1;  // the input is seen with every place repeated zoom x zoom times
};

// Weight [n, side * side * channels] under `name`.weight, in order (row, column, channel); bias [n]
// under `name`.bias if it exists. y: one row for each place of the result.
class Convolution {
 public:
  Convolution(const Weights& weights, const std::string& name, const Kernel& kernel = {});

  void operator()(Backend& backend, const Plane& x, const Tensor& y) const;  // y: f32
  void operand(Backend& backend, const Plane& x, const Tensor& y) const;     // y: operand
  void relu(Backend& backend, const Plane& x, const Tensor& y) const;
  // The channels of `past`, as many as those of x, follow them; no data: zeros
  void relu(Backend& backend, const Plane& x, const Tensor& past, const Tensor& y) const;
  // y = relu(residual + result)
  void residual_relu(Backend& backend, const Plane& x, const Tensor& residual,
                     const Tensor& y) const;

 private:
  struct Beside {
    const Tensor* past = nullptr;
    const Tensor* residual = nullptr;
  };
  void run(Backend& backend, const Plane& x, const Tensor& y, Epilogue epilogue,
           const Beside& beside) const;

  std::string name_;
  Kernel kernel_;
  int64_t n_, k_;
  Buffer weight_, bias_;
};

}  // namespace rtfm
