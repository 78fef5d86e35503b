// SPDX-License-Identifier: Apache-2.0
#include "src/pose.h"

#include <algorithm>
#include <cmath>

#include "src/check.h"

namespace rtfm {
namespace {

constexpr double kRigid = 1e-3;   // |RᵀR - I| that is taken for rounding and removed
constexpr double kExact = 4e-15;  // |RᵀR - I| that double itself leaves
constexpr double kBottomRow = 1e-6;

// aᵀ · b
Mat3 transposed_product(const Mat3& a, const Mat3& b) {
  Mat3 c;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      c[3 * i + j] = a[i] * b[j] + a[3 + i] * b[3 + j] + a[6 + i] * b[6 + j];
  return c;
}

// |g - scale·I| (Frobenius)
double distance_from_identity(const Mat3& g, double scale = 1) {
  double sum = 0;
  for (int i = 0; i < 9; ++i) {
    const double d = g[i] - (i % 4 == 0 ? scale : 0);
    sum += d * d;
  }
  return std::sqrt(sum);
}

double determinant(const Mat3& r) {
  return r[0] * (r[4] * r[8] - r[5] * r[7]) - r[1] * (r[3] * r[8] - r[5] * r[6]) +
         r[2] * (r[3] * r[7] - r[4] * r[6]);
}

// One Newton step to the nearest rotation: R ← R · (3I - RᵀR) / 2; the error squares.
Mat3 newton_step(const Mat3& r, const Mat3& gram) {
  Mat3 next;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      const double rg =
          r[3 * i] * gram[j] + r[3 * i + 1] * gram[3 + j] + r[3 * i + 2] * gram[6 + j];
      next[3 * i + j] = 1.5 * r[3 * i + j] - 0.5 * rg;
    }
  return next;
}

void check_finite(const double m[16]) {
  for (int i = 0; i < 16; ++i)
    check<PoseError>(std::isfinite(m[i]), "pose: expected 16 finite numbers, got ", m[i],
                     " at row ", i / 4, ", column ", i % 4,
                     "; skip this pose or repair what produced it");
}

void check_bottom_row(const double m[16]) {
  double error = std::abs(m[15] - 1);
  for (int i = 12; i < 15; ++i) error = std::max(error, std::abs(m[i]));
  if (error <= kBottomRow) return;
  const bool transposed = m[3] == 0 && m[7] == 0 && m[11] == 0 && std::abs(m[15] - 1) <= kBottomRow;
  fail<PoseError>("pose: expected the bottom row 0 0 0 1, got ", m[12], " ", m[13], " ", m[14], " ",
                  m[15],
                  transposed ? "; the translation is in the last row, so pass the transpose"
                             : "; pass a camera-to-world matrix [R t; 0 0 0 1]");
}

void check_rotation(const Mat3& r, const Mat3& gram) {
  const double error = distance_from_identity(gram);
  if (!(error <= kRigid)) {
    const double square = (gram[0] + gram[4] + gram[8]) / 3;
    const bool scaled = square > 0 && distance_from_identity(gram, square) <= kRigid * square;
    if (scaled)
      fail<PoseError>("pose: expected a rotation, got one scaled by ", std::sqrt(square),
                      "; divide the upper left 3x3 by it");
    fail<PoseError>("pose: expected a rotation, |RᵀR - I| <= ", kRigid, ", got ", error,
                    "; the upper left 3x3 is sheared, stretched or not a rotation at all");
  }
  check<PoseError>(determinant(r) > 0,
                   "pose: expected a right-handed rotation, determinant 1, got -1; the axes are "
                   "left-handed, so flip one of them or convert from the convention by name");
}

void check_position(const Vec3& t) {
  const double distance = std::hypot(t[0], t[1], t[2]);
  check<PoseError>(distance <= kMaxDistance, "pose: expected a position within ", kMaxDistance,
                   " m of the origin, got ", distance,
                   " m; is it in metres? otherwise move the origin closer");
}

}  // namespace

// From 1e-3 the error goes to 1e-6, 1e-12 and rounding.
Mat3 nearest_rotation(Mat3 r) {
  Mat3 gram = transposed_product(r, r);
  for (int step = 0; step < 4 && distance_from_identity(gram) > kExact; ++step) {
    r = newton_step(r, gram);
    gram = transposed_product(r, r);
  }
  return r;
}

Pose Pose::from_matrix(const double m[16]) {
  check_finite(m);
  check_bottom_row(m);
  Pose pose{{m[0], m[1], m[2], m[4], m[5], m[6], m[8], m[9], m[10]}, {m[3], m[7], m[11]}};
  check_rotation(pose.rotation, transposed_product(pose.rotation, pose.rotation));
  check_position(pose.position);
  pose.rotation = nearest_rotation(pose.rotation);
  return pose;
}

std::array<double, 16> Pose::matrix() const {
  const Mat3& r = rotation;
  const Vec3& t = position;
  return {r[0], r[1], r[2], t[0], r[3], r[4], r[5], t[1], r[6], r[7], r[8], t[2], 0, 0, 0, 1};
}

void check_intrinsics(const Intrinsics& k) {
  const auto plausible = [](double f) { return f >= 0.01 && f <= 100; };  // false for NaN
  check<ArgumentError>(plausible(k.fx) && plausible(k.fy),
                       "intrinsics: expected focal lengths within 0.01 .. 100, got (", k.fx, ", ",
                       k.fy, "); they are in units of image width and height, so divide pixels");
}

Pose extrapolate(const Pose& before, const Pose& now) {
  // the turn in the camera's own axes, beforeᵀ · now, once more
  const Mat3 turn = transposed_product(before.rotation, now.rotation);
  Pose next;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      next.rotation[3 * i + j] = now.rotation[3 * i] * turn[j] +
                                 now.rotation[3 * i + 1] * turn[3 + j] +
                                 now.rotation[3 * i + 2] * turn[6 + j];
  for (int i = 0; i < 3; ++i) next.position[i] = 2 * now.position[i] - before.position[i];
  return next;
}

RelativeView relative_view(const View& view, const Pose& origin, double world_scale) {
  RelativeView v{{}, view.intrinsics};
  const Mat3 rotation = transposed_product(origin.rotation, view.pose.rotation);
  for (size_t i = 0; i < 3; ++i) {
    double position = 0;
    for (size_t j = 0; j < 3; ++j) {
      position += origin.rotation[3 * j + i] * (view.pose.position[j] - origin.position[j]);
      v.pose[4 * i + j] = float(rotation[3 * i + j]);
    }
    v.pose[4 * i + 3] = float(position * world_scale);
  }
  return v;
}

Mat4 camera_transform(const View& query, const View& page, double world_scale) {
  const Vec3 offset = {page.pose.position[0] - query.pose.position[0],
                       page.pose.position[1] - query.pose.position[1],
                       page.pose.position[2] - query.pose.position[2]};
  const Mat3 r = transposed_product(query.pose.rotation, page.pose.rotation);
  const double rows[3] = {query.intrinsics.fx, query.intrinsics.fy, 1};
  const double columns[3] = {1 / page.intrinsics.fx, 1 / page.intrinsics.fy, 1};
  Mat4 m{};
  for (int i = 0; i < 3; ++i) {
    const Vec3 axis = query.pose.axis(i);
    const double t = axis[0] * offset[0] + axis[1] * offset[1] + axis[2] * offset[2];
    for (int j = 0; j < 3; ++j)
      m[4 * i + j] = static_cast<float>(rows[i] * r[3 * i + j] * columns[j]);
    m[4 * i + 3] = static_cast<float>(rows[i] * t * world_scale);
  }
  m[15] = 1;
  return m;
}

}  // namespace rtfm
