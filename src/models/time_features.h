// SPDX-License-Identifier: Apache-2.0
// What a network is told of the time of a denoising step. Times are known when a model is loaded,
// so all of this is done in double, once.
#pragma once

#include <vector>

namespace rtfm {

constexpr int kTimeFeatures = 256;

// [cos | sin](angle·f_i), f_i = exp(-ln(1e4)·i/128)
std::vector<double> time_features(double angle);

// y[n] = w[n, k] · x + b
std::vector<double> affine(const std::vector<float>& w, const std::vector<float>& b,
                           const std::vector<double>& x);

void silu(std::vector<double>& x);

}  // namespace rtfm
