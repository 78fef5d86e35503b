// SPDX-License-Identifier: Apache-2.0
#include "src/layers.h"

#include "src/check.h"

namespace rtfm {

Buffer upload(const std::shared_ptr<Backend>& backend, const std::vector<float>& values) {
  Buffer buffer(backend, int64_t(values.size()) * 4);
  backend->upload(buffer.data(), values.data(), buffer.bytes());
  return buffer;
}

Buffer Weights::vector(const std::string& name) const {
  return upload(backend, file.to_float(name));
}

std::vector<float>& Weights::numbers(const std::string& name) const {
  file.to_float(name, last);
  return last;
}

Linear::Linear(const Weights& weights, const std::string& name) : name_(name) {
  const TensorView& view = weights.file.tensors().at(name + ".weight");
  n_ = view.shape.at(0), k_ = view.shape.at(1);
  stored_ = view.dtype == TensorType::bf16 ? DType::bf16 : DType::f32;
  const std::vector<float>& values = weights.numbers(name + ".weight");
  weight_ = Buffer(weights.backend, weights.backend->weight_bytes(n_, k_, stored_));
  weights.backend->pack_weight(values.data(), n_, k_, stored_, weight_.data());
  if (weights.file.tensors().contains(name + ".bias")) bias_ = weights.vector(name + ".bias");
}

Linear::Linear(const Weights& weights, const std::string& name, const std::vector<float>& bias)
    : Linear(weights, name) {
  bias_ = upload(weights.backend, bias);
}

void Linear::operator()(Backend& backend, const Tensor& x, const Tensor& y) const {
  run(backend, x, y, Epilogue::store);
}
void Linear::gelu(Backend& backend, const Tensor& x, const Tensor& y) const {
  run(backend, x, y, Epilogue::gelu);
}
void Linear::gelu_erf(Backend& backend, const Tensor& x, const Tensor& y) const {
  run(backend, x, y, Epilogue::gelu_erf);
}
void Linear::silu(Backend& backend, const Tensor& x, const Tensor& y) const {
  run(backend, x, y, Epilogue::silu);
}
void Linear::relu(Backend& backend, const Tensor& x, const Tensor& y) const {
  run(backend, x, y, Epilogue::relu);
}
void Linear::signed_sigmoid(Backend& backend, const Tensor& x, const Tensor& y) const {
  run(backend, x, y, Epilogue::signed_sigmoid);
}
void Linear::add_gated(Backend& backend, const Tensor& x, const float* gate,
                       const Tensor& y) const {
  run(backend, x, y, Epilogue::gated_residual, gate);
}

void Linear::silu_of_sum(Backend& backend, const Tensor& x, const float* added,
                         const Tensor& y) const {
  check<Error>(!bias_.data(), "[", name_, "] expected a layer without bias");
  run(backend, x, y, Epilogue::silu, nullptr, added);
}

void Linear::run(Backend& backend, const Tensor& x, const Tensor& y, Epilogue epilogue,
                 const float* gate) const {
  run(backend, x, y, epilogue, gate, reinterpret_cast<const float*>(bias_.data()));
}

void Linear::run(Backend& backend, const Tensor& x, const Tensor& y, Epilogue epilogue,
                 const float* gate, const float* bias) const {
  const bool f32 = epilogue == Epilogue::store || epilogue == Epilogue::gated_residual ||
                   epilogue == Epilogue::signed_sigmoid;
  const DType wanted = f32 ? DType::f32 : backend.operand_dtype();
  check<Error>(x.cols == k_ && y.cols == n_ && x.rows == y.rows && y.dtype == wanted &&
                   x.dtype == backend.operand_dtype(),
               "[", name_, "] expected [rows, ", k_, "] -> [rows, ", n_, "], got [", x.rows, ", ",
               x.cols, "] -> [", y.rows, ", ", y.cols, "] or another dtype");
  backend.matmul({.x = x.data,
                  .w = weight_.data(),
                  .bias = bias,
                  .gate = gate,
                  .y = y.data,
                  .x_stride = x.stride,
                  .y_stride = y.stride,
                  .rows = x.rows,
                  .n = n_,
                  .k = k_,
                  .epilogue = epilogue,
                  .stored = stored_});
}

static void norm_modulate(Backend& backend, const Tensor& x, const float* scale, const float* shift,
                          Norm norm, float eps, const Tensor& y,
                          Activation activation = Activation::none) {
  check<Error>(x.rows == y.rows && x.cols == y.cols && x.dtype == DType::f32 &&
                   y.dtype == backend.operand_dtype(),
               "[norm_modulate] expected f32 and operand matrices of one shape, got [", x.rows,
               ", ", x.cols, "] and [", y.rows, ", ", y.cols, "]");
  backend.norm_modulate({.x = static_cast<const float*>(x.data),
                         .scale = scale,
                         .shift = shift,
                         .y = y.data,
                         .x_stride = x.stride,
                         .y_stride = y.stride,
                         .rows = x.rows,
                         .cols = x.cols,
                         .eps = eps,
                         .norm = norm,
                         .activation = activation});
}

void rms_modulate(Backend& backend, const Tensor& x, const float* scale, const float* shift,
                  float eps, const Tensor& y) {
  norm_modulate(backend, x, scale, shift, Norm::rms, eps, y);
}
void rms_modulate_silu(Backend& backend, const Tensor& x, const float* scale, const float* shift,
                       float eps, const Tensor& y) {
  norm_modulate(backend, x, scale, shift, Norm::rms, eps, y, Activation::silu);
}
void layer_modulate(Backend& backend, const Tensor& x, const float* scale, const float* shift,
                    float eps, const Tensor& y) {
  norm_modulate(backend, x, scale, shift, Norm::layer, eps, y);
}

void patchify(Backend& backend, const Picture& picture, int patch, const Tensor& tokens) {
  backend.patchify({.image = reinterpret_cast<const uint8_t*>(picture.pixels),
                    .tokens = tokens.data,
                    .tokens_stride = tokens.stride,
                    .height = picture.height,
                    .width = picture.width,
                    .patch = patch});
}

void unpatchify(Backend& backend, const Tensor& tokens, int patch, const Picture& picture) {
  backend.unpatchify({.tokens = static_cast<const float*>(tokens.data),
                      .image = reinterpret_cast<uint8_t*>(picture.pixels),
                      .tokens_stride = tokens.stride,
                      .height = picture.height,
                      .width = picture.width,
                      .patch = patch});
}

void ray_patches(Backend& backend, const Picture& picture, const StepInputs* inputs, int patch,
                 const Tensor& tokens) {
  backend.ray_patches({.image = reinterpret_cast<const uint8_t*>(picture.pixels),
                       .inputs = inputs,
                       .tokens = tokens.data,
                       .tokens_stride = tokens.stride,
                       .height = picture.height,
                       .width = picture.width,
                       .patch = patch});
}

}  // namespace rtfm
