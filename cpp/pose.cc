// SPDX-License-Identifier: Apache-2.0
// Poses of other conventions, and intrinsics.
#include <cmath>
#include <numbers>

#include "cpp/convert.h"

namespace rtfm_rt {
namespace {

using Rotation = std::array<double, 9>;  // row-major

struct Axes {  // OpenCV camera coordinates to those of a convention, and the world's axes
  Rotation camera, world;
};

Axes axes_of(Convention convention) {
  constexpr Rotation kKeep{1, 0, 0, 0, 1, 0, 0, 0, 1};
  constexpr Rotation kYUpZBack{1, 0, 0, 0, -1, 0, 0, 0, -1};
  constexpr Rotation kXForwardZUp{0, 0, 1, -1, 0, 0, 0, -1, 0};
  constexpr Rotation kMirrorY{1, 0, 0, 0, -1, 0, 0, 0, 1};
  switch (convention) {
    case Convention::kOpenCv:
    case Convention::kRosOptical:
      return {kKeep, kKeep};
    case Convention::kOpenGl:
    case Convention::kOpenXr:
      return {kYUpZBack, kKeep};
    case Convention::kRosBody:
      return {kXForwardZUp, kKeep};
    case Convention::kUnity:
      return {kMirrorY, kMirrorY};
  }
  throw PoseError("convention: expected one of Convention, got " + std::to_string(int(convention)));
}

Rotation product(const Rotation& a, const Rotation& b) {
  Rotation c;
  for (size_t i = 0; i < 3; ++i)
    for (size_t j = 0; j < 3; ++j)
      c[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
  return c;
}

Vector product(const Rotation& a, const Vector& v) {
  Vector w;
  for (size_t i = 0; i < 3; ++i) w[i] = a[3 * i] * v[0] + a[3 * i + 1] * v[1] + a[3 * i + 2] * v[2];
  return w;
}

Rotation transpose(const Rotation& a) {
  return {a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8]};
}

double dot(const Vector& a, const Vector& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
double length(const Vector& v) { return std::hypot(v[0], v[1], v[2]); }

Vector cross(const Vector& a, const Vector& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

Pose checked(const Pose& pose) {
  return translated([&] { return from_pose(to_pose(pose)); });
}

// world · pose · camera: the camera's axes enter on the right, the world's on the left.
Pose change_axes(const Rotation& world, const Pose& pose, const Rotation& camera) {
  return {product(product(world, pose.rotation), camera), product(world, pose.position)};
}

Pose inverse_of(const Pose& pose) {
  const Rotation back = transpose(pose.rotation);
  const Vector moved = product(back, pose.position);
  return {back, {-moved[0], -moved[1], -moved[2]}};
}

Pose compose(const Vector& position, const Quaternion& xyzw) {
  const double norm = std::hypot(std::hypot(xyzw[0], xyzw[1]), std::hypot(xyzw[2], xyzw[3]));
  if (!(std::abs(norm - 1) <= 0.01))
    throw PoseError("quaternion: expected a norm within 1 % of 1, got " + std::to_string(norm) +
                    "; normalise it");
  const double x = xyzw[0] / norm, y = xyzw[1] / norm, z = xyzw[2] / norm, w = xyzw[3] / norm;
  return checked({{1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
                   2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
                   2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)},
                  position});
}

Pose from_convention(const Pose& pose, Convention convention) {
  const Axes axes = axes_of(convention);
  return change_axes(axes.world, pose, axes.camera);
}

}  // namespace

Pose Pose::from_matrix(std::span<const double, 16> matrix, Convention convention,
                       Direction direction) {
  const Pose own = translated([&] { return from_pose(rtfm::Pose::from_matrix(matrix.data())); });
  return from_convention(direction == Direction::kWorldToCamera ? inverse_of(own) : own,
                         convention);
}

Pose Pose::from_quaternion(const Vector& position, const Quaternion& xyzw) {
  return compose(position, xyzw);
}

Pose Pose::from_openxr(const Vector& position, const Quaternion& xyzw) {
  return from_convention(compose(position, xyzw), Convention::kOpenXr);
}

Pose Pose::from_ros(const Vector& position, const Quaternion& xyzw, bool optical) {
  return from_convention(compose(position, xyzw),
                         optical ? Convention::kRosOptical : Convention::kRosBody);
}

Pose Pose::from_colmap(const Quaternion& wxyz, const Vector& translation) {
  return inverse_of(compose(translation, {wxyz[1], wxyz[2], wxyz[3], wxyz[0]}));
}

Pose Pose::look_at(const Vector& eye, const Vector& target, const Vector& up) {
  Vector forward{target[0] - eye[0], target[1] - eye[1], target[2] - eye[2]};
  const double reach = length(forward), upward = length(up);
  if (!(reach >= 1e-9 && std::isfinite(reach)))
    throw PoseError("look_at: expected a target away from the eye, got a distance of " +
                    std::to_string(reach) + " m");
  for (double& f : forward) f /= reach;
  Vector down{};
  if (upward > 0 && std::isfinite(upward))
    down = {-up[0] / upward, -up[1] / upward, -up[2] / upward};
  const double along = dot(down, forward);
  for (size_t i = 0; i < 3; ++i) down[i] -= along * forward[i];
  const double across = length(down);
  if (!(across >= 1e-6))
    throw PoseError(
        "look_at: expected an up direction across the view, got one along it; choose "
        "another up");
  for (double& d : down) d /= across;
  const Vector right = cross(down, forward);
  return checked({{right[0], down[0], forward[0], right[1], down[1], forward[1], right[2], down[2],
                   forward[2]},
                  eye});
}

Matrix Pose::to_matrix(Convention convention, Direction direction) const {
  const Axes axes = axes_of(convention);
  Pose own = change_axes(transpose(axes.world), *this, transpose(axes.camera));
  if (direction == Direction::kWorldToCamera) own = inverse_of(own);
  return rtfm::Pose{own.rotation, own.position}.matrix();
}

Pose Pose::inverse() const { return checked(inverse_of(*this)); }

Pose Pose::operator*(const Pose& relative) const {
  Vector there = product(rotation, relative.position);
  for (size_t i = 0; i < 3; ++i) there[i] += position[i];
  return checked({product(rotation, relative.rotation), there});
}

Intrinsics Intrinsics::from_fov(double horizontal, double aspect) {
  if (!(horizontal > 0 && horizontal < 180))
    throw ArgumentError("field of view: expected 0 < degrees < 180, got " +
                        std::to_string(horizontal));
  if (!(aspect > 0 && std::isfinite(aspect)))
    throw ArgumentError("aspect: expected width / height > 0, got " + std::to_string(aspect));
  const double fx = 0.5 / std::tan(horizontal * std::numbers::pi / 360);
  return {fx, fx * aspect};
}

Intrinsics Intrinsics::from_pixels(double fx, double fy, int width, int height) {
  if (!(fx > 0 && fy > 0 && std::isfinite(fx) && std::isfinite(fy) && width > 0 && height > 0))
    throw ArgumentError("intrinsics: expected numbers of pixels > 0, got " + std::to_string(fx) +
                        ", " + std::to_string(fy) + " for " + std::to_string(width) + "x" +
                        std::to_string(height));
  return {fx / width, fy / height};
}

}  // namespace rtfm_rt
