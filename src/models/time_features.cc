// SPDX-License-Identifier: Apache-2.0
#include "src/models/time_features.h"

#include <cmath>
#include <cstddef>

namespace rtfm {

std::vector<double> time_features(double angle) {
  std::vector<double> features(kTimeFeatures);
  constexpr size_t half = kTimeFeatures / 2;
  for (size_t i = 0; i < half; ++i) {
    const double turn = angle * std::exp(-std::log(1e4) * double(i) / double(half));
    features[i] = std::cos(turn);
    features[half + i] = std::sin(turn);
  }
  return features;
}

std::vector<double> affine(const std::vector<float>& w, const std::vector<float>& b,
                           const std::vector<double>& x) {
  std::vector<double> y(b.begin(), b.end());
  for (size_t i = 0; i < y.size(); ++i)
    for (size_t j = 0; j < x.size(); ++j) y[i] += double(w[i * x.size() + j]) * x[j];
  return y;
}

void silu(std::vector<double>& x) {
  for (double& v : x) v /= 1.0 + std::exp(-v);
}

}  // namespace rtfm
