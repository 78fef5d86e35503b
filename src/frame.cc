// SPDX-License-Identifier: Apache-2.0
#include "src/frame.h"

#include <algorithm>
#include <cmath>

namespace rtfm {
namespace {

// Bilinear sample at pixel coordinates (x, y), clamped to the image.
void sample_pixel(const uint8_t* image, int height, int width, double x, double y, uint8_t* out) {
  x = std::clamp(x, 0.0, double(width - 1));
  y = std::clamp(y, 0.0, double(height - 1));
  const int x0 = int(x), y0 = int(y), x1 = std::min(x0 + 1, width - 1),
            y1 = std::min(y0 + 1, height - 1);
  const double u = x - x0, v = y - y0;
  for (int c = 0; c < 3; ++c) {
    const auto at = [&](int row, int col) { return double(image[(row * width + col) * 3 + c]); };
    const double top = at(y0, x0) * (1 - u) + at(y0, x1) * u;
    const double bottom = at(y1, x0) * (1 - u) + at(y1, x1) * u;
    out[c] = uint8_t(std::lround(top * (1 - v) + bottom * v));
  }
}

}  // namespace

Frame Frame::reproject(const Pose& pose) const {
  Frame turned = *this;
  turned.pixels = std::make_shared<Pixels>(int64_t(3) * height * width);
  turned.images = 1;
  turned.view.pose.rotation = pose.rotation;
  // a ray of the new camera in the old one: R_oldᵀ · R_new · ray
  const auto &old_r = view.pose.rotation, &new_r = pose.rotation;
  double m[3][3] = {};
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 3; ++k) m[i][j] += old_r[3 * k + i] * new_r[3 * k + j];
  const double fx = view.intrinsics.fx * width, fy = view.intrinsics.fy * height;
  const double cx = (width - 1) / 2.0, cy = (height - 1) / 2.0;  // pixel centres are integers
  const uint8_t* from = image();
  uint8_t* to = turned.pixels->data();
  constexpr double kBehind = 1e-6, kFar = 1e6;  // a ray that looks backwards lands on the edge
  for (int row = 0; row < height; ++row)
    for (int col = 0; col < width; ++col) {
      const double ray[3] = {(col - cx) / fx, (row - cy) / fy, 1};
      double seen[3];
      for (int i = 0; i < 3; ++i) seen[i] = m[i][0] * ray[0] + m[i][1] * ray[1] + m[i][2] * ray[2];
      const double z = std::max(seen[2], kBehind);
      const double x = std::clamp(seen[0] / z * fx + cx, -kFar, kFar);
      const double y = std::clamp(seen[1] / z * fy + cy, -kFar, kFar);
      sample_pixel(from, height, width, x, y, to + (row * width + col) * 3);
    }
  return turned;
}

}  // namespace rtfm
