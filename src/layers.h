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
  // `name` on the host, to be changed as one likes until the next call: one piece of memory serves
  // all that is large.
  std::vector<float>& numbers(const std::string& name) const;

  mutable std::vector<float> last{};
};

// y = x · weightᵀ + bias; weight [n, k] under `name`.weight, bias [n] under `name`.bias if it
// exists.
class Linear {
 public:
  Linear(const Weights& weights, const std::string& name);
  Linear(const Weights& weights, const std::string& name, const std::vector<float>& bias);

  void operator()(Backend& backend, const Tensor& x, const Tensor& y) const;  // y: f32
  void gelu(Backend& backend, const Tensor& x, const Tensor& y) const;        // y: operand
  void gelu_erf(Backend& backend, const Tensor& x, const Tensor& y) const;    // exact
  void silu(Backend& backend, const Tensor& x, const Tensor& y) const;
  void relu(Backend& backend, const Tensor& x, const Tensor& y) const;
  void signed_sigmoid(Backend& backend, const Tensor& x, const Tensor& y) const;  // y: f32
  // silu(x · weightᵀ + added); added [n] on the device, of a layer without bias
  void silu_of_sum(Backend& backend, const Tensor& x, const float* added, const Tensor& y) const;
  // y += gate * (x · weightᵀ + bias); gate [n] on the device, null for ones
  void add_gated(Backend& backend, const Tensor& x, const float* gate, const Tensor& y) const;

 private:
  void run(Backend& backend, const Tensor& x, const Tensor& y, Epilogue epilogue,
           const float* gate = nullptr) const;
  void run(Backend& backend, const Tensor& x, const Tensor& y, Epilogue epilogue, const float* gate,
           const float* bias) const;

  std::string name_;
  int64_t n_, k_;
  DType stored_;  // of the weight in the file
  Buffer weight_, bias_;
};

// y = norm(x) * scale + shift, without a weight of its own; scale, shift [cols] on the device
void rms_modulate(Backend& backend, const Tensor& x, const float* scale, const float* shift,
                  float eps, const Tensor& y);
void rms_modulate_silu(Backend& backend, const Tensor& x, const float* scale, const float* shift,
                       float eps, const Tensor& y);
void layer_modulate(Backend& backend, const Tensor& x, const float* scale, const float* shift,
                    float eps, const Tensor& y);

struct Picture {  // [height, width, 3] uint8 on the device
  std::byte* pixels;
  int64_t height, width;
};
void patchify(Backend& backend, const Picture& picture, int patch, const Tensor& tokens);
void unpatchify(Backend& backend, const Tensor& tokens, int patch, const Picture& picture);
// pixels: null for rays alone
void ray_patches(Backend& backend, const Picture& picture, const StepInputs* inputs, int patch,
                 const Tensor& tokens);

}  // namespace rtfm
