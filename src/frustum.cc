// SPDX-License-Identifier: Apache-2.0
#include "src/frustum.h"

#include <bit>
#include <cmath>

namespace rtfm {
namespace {

constexpr float kFarMargin = 1.05f;  // a frame sees a little beyond the frustum it is asked for
constexpr float kCentroid = 0.72f;   // depth of the frustum's centroid, in units of far

// rows · p
template <class T>
inline Triple<T> rotate(const float* r, const Triple<T>& p) {
  return {r[0] * p.x + r[1] * p.y + r[2] * p.z, r[3] * p.x + r[4] * p.y + r[5] * p.z,
          r[6] * p.x + r[7] * p.y + r[8] * p.z};
}

inline Triple<Lanes> along(const Triple<Lanes>& ray, float depth, const Triple<float>& origin) {
  return {depth * ray.x + origin.x, depth * ray.y + origin.y, depth * ray.z + origin.z};
}

inline Lanes magnitude(const Lanes& x) {
  return std::bit_cast<Lanes>(std::bit_cast<Bits>(x) & 0x7fffffff);
}

// One bit for each plane of a frustum that the point is beyond.
inline Bits planes_beyond(const Triple<Lanes>& p, float near, float far) {
  const Lanes minus = -p.z;
  return ((p.x > p.z) & 1) | ((p.x < minus) & 2) | ((p.y > p.z) & 4) | ((p.y < minus) & 8) |
         ((p.z <= near) & 16) | ((p.z >= far) & 32);
}

}  // namespace

Frustum frustum(const View& view) {
  const double over_tangent[3] = {2 * view.intrinsics.fx, 2 * view.intrinsics.fy, 1};
  Frustum frame{};
  for (int i = 0; i < 3; ++i) {
    const Vec3 axis = view.pose.axis(i);
    for (int j = 0; j < 3; ++j)
      frame.rows[3 * i + j] = static_cast<float>(axis[j] * over_tangent[i]);
    frame.position[i] = view.pose.position[i];
  }
  return frame;
}

FrustumPoints points_of(const View& view) {
  const std::array<double, 9>& r = view.pose.rotation;
  const double tan_h = 0.5 / view.intrinsics.fx, tan_v = 0.5 / view.intrinsics.fy;
  FrustumPoints points;
  for (int g = 0; g < 4; ++g)
    for (int i = 0; i < 4; ++i) {
      const double a = tan_h * ((i + 0.5) / 2 - 1), b = tan_v * ((g + 0.5) / 2 - 1);
      Triple<Lanes>& directions = points.directions[g];
      directions.x[i] = static_cast<float>(a * r[0] + b * r[1] + r[2]);
      directions.y[i] = static_cast<float>(a * r[3] + b * r[4] + r[5]);
      directions.z[i] = static_cast<float>(a * r[6] + b * r[7] + r[8]);
    }
  const auto ends = [](const Lanes& v, const Lanes& w) { return Lanes{v[0], v[3], w[0], w[3]}; };
  const Triple<Lanes>&top = points.directions[0], &bottom = points.directions[3];
  points.corners.x = ends(top.x, bottom.x);
  points.corners.y = ends(top.y, bottom.y);
  points.corners.z = ends(top.z, bottom.z);
  for (int i = 0; i < 3; ++i) points.origin[i] = view.pose.position[i];
  return points;
}

Sight::Sight(double near, double far) {
  const double near3 = std::pow(near, 3), far3 = std::pow(far, 3);
  for (int i = 0; i < 4; ++i) {
    const double u = (i + 0.5) / 4;
    depths_[i] = static_cast<float>(std::cbrt(u * far3 + (1 - u) * near3));
  }
  range_ = static_cast<float>(far);
  near_ = static_cast<float>(near);
  far_ = range_ * kFarMargin;
  centroid_ = range_ * kCentroid;
}

// In float relative to one of the two cameras, here and below.
uint64_t Sight::seen(const Frustum& frame, const FrustumPoints& points) const {
  const float* r = frame.rows;
  const float ox = static_cast<float>(points.origin[0] - frame.position[0]);
  const float oy = static_cast<float>(points.origin[1] - frame.position[1]);
  const float oz = static_cast<float>(points.origin[2] - frame.position[2]);
  const Triple<float> t = rotate(r, Triple<float>{ox, oy, oz});
  // When the eight corners lie beyond one plane of the frustum, so do the points between them.
  const Triple<Lanes> corner = rotate(r, points.corners);
  const Bits beyond = planes_beyond(along(corner, depths_[0], t), near_, far_) &
                      planes_beyond(along(corner, depths_[3], t), near_, far_);
  if (beyond[0] & beyond[1] & beyond[2] & beyond[3]) return 0;

  Bits hits{};  // lane i, bit 15 - 4g - d: direction 4g + i at depth d
  for (const Triple<Lanes>& directions : points.directions) {
    const Triple<Lanes> local = rotate(r, directions);
    for (const float depth : depths_) {
      const auto [x, y, z] = along(local, depth, t);
      const Bits in = (z > near_) & (z < far_) & (magnitude(x) <= z) & (magnitude(y) <= z);
      hits = hits + hits - in;  // true is -1
    }
  }
  uint64_t mask = 0;
  for (int i = 0; i < 4; ++i) mask |= static_cast<uint64_t>(hits[i]) << 16 * i;
  return mask;
}

bool Sight::sees_centroid(const Frustum& frame, const Frustum& other) const {
  float p[3];
  for (int i = 0; i < 3; ++i)
    p[i] = static_cast<float>(other.position[i] - frame.position[i]) +
           centroid_ * other.direction()[i];
  const auto [x, y, z] = rotate(frame.rows, Triple<float>{p[0], p[1], p[2]});
  return z > near_ && z < far_ && std::abs(x) <= z && std::abs(y) <= z;
}

Vec3 Sight::centroid(const Frustum& frame) const {
  Vec3 point;
  for (int i = 0; i < 3; ++i)
    point[i] = frame.position[i] + static_cast<double>(centroid_) * frame.direction()[i];
  return point;
}

float Sight::distance(const Frustum& a, const Frustum& b) const {
  const float *f = a.direction(), *g = b.direction();
  float square = 0;
  for (int i = 0; i < 3; ++i) {
    const float d = static_cast<float>(a.position[i] - b.position[i]) + centroid_ * (f[i] - g[i]);
    square += d * d;
  }
  const float cosine = f[0] * g[0] + f[1] * g[1] + f[2] * g[2];
  return std::sqrt(square) / range_ + kTurn * (1 - cosine);
}

}  // namespace rtfm
