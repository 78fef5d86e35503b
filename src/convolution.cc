// SPDX-License-Identifier: Apache-2.0
#include "src/convolution.h"

#include "src/check.h"

namespace rtfm {

Convolution::Convolution(const Weights& weights, const std::string& name, const Kernel& kernel)
    : name_(name), kernel_(kernel) {
  const TensorView& view = weights.file.tensors().at(name + ".weight");
  n_ = view.shape.at(0), k_ = view.shape.at(1);
  const std::vector<float>& values = weights.numbers(name + ".weight");
  weight_ = Buffer(weights.backend, weights.backend->kernel_bytes(n_, k_));
  weights.backend->pack_kernel(values.data(), n_, k_, weight_.data());
  if (weights.file.tensors().contains(name + ".bias")) bias_ = weights.vector(name + ".bias");
}

void Convolution::operator()(Backend& backend, const Plane& x, const Tensor& y) const {
  run(backend, x, y, Epilogue::store, {});
}
void Convolution::operand(Backend& backend, const Plane& x, const Tensor& y) const {
  run(backend, x, y, Epilogue::operand, {});
}
void Convolution::relu(Backend& backend, const Plane& x, const Tensor& y) const {
  run(backend, x, y, Epilogue::relu, {});
}
void Convolution::relu(Backend& backend, const Plane& x, const Tensor& past,
                       const Tensor& y) const {
  run(backend, x, y, Epilogue::relu, {.past = &past});
}
void Convolution::residual_relu(Backend& backend, const Plane& x, const Tensor& residual,
                                const Tensor& y) const {
  run(backend, x, y, Epilogue::residual_relu, {.residual = &residual});
}

void Convolution::run(Backend& backend, const Plane& x, const Tensor& y, Epilogue epilogue,
                      const Beside& beside) const {
  const Tensor& in = x.values;
  const Tensor* past = beside.past;
  const Tensor* residual = beside.residual;
  const ConvolutionArgs args{.x = in.data,
                             .past = past ? past->data : nullptr,
                             .w = weight_.data(),
                             .bias = reinterpret_cast<const float*>(bias_.data()),
                             .residual = residual ? residual->data : nullptr,
                             .y = y.data,
                             .x_stride = in.stride,
                             .past_stride = past ? past->stride : 0,
                             .residual_stride = residual ? residual->stride : 0,
                             .y_stride = y.stride,
                             .height = x.rows,
                             .width = x.cols,
                             .channels = in.cols,
                             .past_channels = past ? past->cols : 0,
                             .zoom = kernel_.zoom,
                             .side = kernel_.side,
                             .stride = kernel_.stride,
                             .padding = kernel_.padding,
                             .n = n_,
                             .epilogue = epilogue};
  const DType wanted = epilogue == Epilogue::store ? DType::f32 : backend.operand_dtype();
  const int64_t places = args.rows() * args.cols();
  check<Error>(kernel_.side * kernel_.side * (args.channels + args.past_channels) == k_ &&
                   in.rows == x.rows * x.cols && in.dtype == backend.operand_dtype() &&
                   y.rows == places && y.cols == n_ && y.dtype == wanted &&
                   (!residual || (residual->rows == places && residual->cols == n_)),
               "[", name_, "] expected depth ", k_, " and [", places, ", ", n_, "], got ", x.rows,
               " x ", x.cols, " places of ", args.channels, " + ", args.past_channels,
               " channels and [", y.rows, ", ", y.cols, "], or another dtype");
  backend.convolution(args);
}

}  // namespace rtfm
