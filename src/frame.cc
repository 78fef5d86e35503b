// SPDX-License-Identifier: Apache-2.0
#include "src/frame.h"

#include <algorithm>
#include <cmath>

namespace rtfm {
namespace {

// Bilinear sample at pixel coordinates (x, y) within the image.
void sample_pixel(const uint8_t* image, int height, int width, float x, float y, uint8_t* out) {
  const int x0 = int(x), y0 = int(y);
  const float u = x - float(x0), v = y - float(y0);
  const uint8_t* top = image + (y0 * width + x0) * 3;
  const uint8_t* bottom = y0 + 1 < height ? top + width * 3 : top;
  const int right = x0 + 1 < width ? 3 : 0;
  for (int c = 0; c < 3; ++c) {
    const float above = float(top[c]) + u * float(top[right + c] - top[c]);
    const float below = float(bottom[c]) + u * float(bottom[right + c] - bottom[c]);
    out[c] = uint8_t(above + v * (below - above) + 0.5f);
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
  const float fx = float(view.intrinsics.fx * width), fy = float(view.intrinsics.fy * height);
  const float cx = float(width - 1) / 2, cy = float(height - 1) / 2;  // pixel centres are integers
  const float right = float(width - 1), bottom = float(height - 1);
  const uint8_t* from = image();
  uint8_t* to = turned.pixels->data();
  constexpr float kBehind = 1e-6f;  // a ray that looks backwards lands on the edge
  for (int row = 0; row < height; ++row) {
    float first[3], along[3];  // of the rays of this row
    for (int i = 0; i < 3; ++i) {
      along[i] = float(m[i][0]) / fx;
      first[i] = float(m[i][1]) * (float(row) - cy) / fy + float(m[i][2]);
    }
    for (int col = 0; col < width; ++col, to += 3) {
      const float at = float(col) - cx, z = std::max(first[2] + along[2] * at, kBehind);
      const float x = std::clamp((first[0] + along[0] * at) / z * fx + cx, 0.f, right);
      const float y = std::clamp((first[1] + along[1] * at) / z * fy + cy, 0.f, bottom);
      sample_pixel(from, height, width, x, y, to);
    }
  }
  return turned;
}

}  // namespace rtfm
