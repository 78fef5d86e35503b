// SPDX-License-Identifier: Apache-2.0
// Where a camera stands and how it sees. Camera-to-world, right-handed, metres; camera axes x
// right, y down, z forward (OpenCV).
#pragma once

#include <array>

namespace rtfm {

using Vec3 = std::array<double, 3>;
using Mat3 = std::array<double, 9>;  // row-major
using Mat4 = std::array<float, 16>;  // row-major

constexpr double kMaxDistance = 1e6;  // metres from the world's origin

struct Pose {
  Mat3 rotation;  // columns are the camera axes in the world
  Vec3 position;  // metres

  // From a row-major camera-to-world 4x4. Accepts |RᵀR - I| <= 1e-3 (Frobenius) and removes that
  // error; throws PoseError for anything that is not finite, rigid, right-handed or within 1e6 m.
  // A matrix that is rigid to rounding passes bit for bit, so matrix() round-trips exactly.
  static Pose from_matrix(const double matrix[16]);

  std::array<double, 16> matrix() const;  // row-major camera-to-world
  Vec3 axis(int i) const { return {rotation[i], rotation[3 + i], rotation[6 + i]}; }
};

// The rotation nearest to a matrix that is off one by 1e-3 at most; one that is off by rounding
// only stays as it is.
Mat3 nearest_rotation(Mat3 matrix);

// Where the motion from `before` to `now` leads next, at the same velocities.
Pose extrapolate(const Pose& before, const Pose& now);

// Focal lengths in units of image width and height; the principal point is the image centre.
struct Intrinsics {
  double fx, fy;
};

// Throws ArgumentError unless both are within 0.01 .. 100 (a view of 178 .. 0.6 degrees): outside
// of it something else was meant, most often pixels.
void check_intrinsics(const Intrinsics& k);

struct View {
  Pose pose;
  Intrinsics intrinsics;
};

// Focal lengths and pose of a view with the first camera's pose as the origin, in model units.
struct RelativeView {
  std::array<float, 12> pose;  // camera-to-world, row-major 3x4
  Intrinsics intrinsics;
};
RelativeView relative_view(const View& view, const Pose& origin, double world_scale);

// M = P_query · P_page⁻¹ with P = diag(fx, fy, 1, 1) · [R | t·scale; 0 1] world-to-camera: carries
// a page's camera-local K and V into the query camera. Differences of positions are taken first, in
// double, so the distance from the world's origin costs no precision.
Mat4 camera_transform(const View& query, const View& page, double world_scale);

}  // namespace rtfm
