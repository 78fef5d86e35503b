// SPDX-License-Identifier: Apache-2.0
// The pieces of a network: built from (file, name) once, const afterwards, called with tensors
// whose shapes they check.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/safetensors.h"
#include "src/tensor.h"

namespace rtfm {

// A copy of `values` on the device.
Buffer upload(const std::shared_ptr<Backend>& backend, const std::vector<float>& values);

// Where a network's tensors come from and go to.
struct Weights {
  const Safetensors& file;
  std::shared_ptr<Backend> backend;

  Buffer vector(const std::string& name) const;  // f32, any shape flattened
};

// y = x · weightᵀ + bias; weight [n, k] under `name`.weight, bias [n] under `name`.bias if it
// exists.
class Linear {
 public:
  Linear(const Weights& weights, const std::string& name);

  void operator()(Backend& backend, const Tensor& x, const Tensor& y) const;  // y: f32
  void gelu(Backend& backend, const Tensor& x, const Tensor& y) const;        // y: operand
  // y += gate * (x · weightᵀ + bias); gate [n] on the device
  void add_gated(Backend& backend, const Tensor& x, const float* gate, const Tensor& y) const;

 private:
  void run(Backend& backend, const Tensor& x, const Tensor& y, const float* gate, Epilogue) const;

  std::string name_;
  int64_t n_, k_;
  Buffer weight_, bias_;
};

// y = rms(x) * scale + shift, without a weight of its own; scale, shift [cols] on the device
void norm_modulate(Backend& backend, const Tensor& x, const float* scale, const float* shift,
                   const Tensor& y);

constexpr float kNormEps = 1e-6f;

}  // namespace rtfm
