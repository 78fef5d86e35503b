// SPDX-License-Identifier: Apache-2.0
// What one view sees of another: 64 points of a frustum, and how far two frusta are apart.
#pragma once

#include <array>
#include <cstdint>

#include "src/pose.h"

namespace rtfm {

// Four floats and their comparisons; g++ and clang make one instruction of each operation.
using Lanes [[gnu::vector_size(16)]] = float;
using Bits [[gnu::vector_size(16)]] = int32_t;

template <class T>
struct Triple {
  T x, y, z;
};

// A remembered frustum as the scan wants it. Rows of world-to-camera, x and y divided by the
// tangent of the half angle, so that a camera-local point is in view when |x| <= z and |y| <= z.
struct alignas(64) Frustum {
  float rows[9];
  double position[3];

  const float* direction() const { return rows + 6; }
};

// 64 points of a frustum: 16 directions in the world, at depth 1, at four depths each.
struct FrustumPoints {
  Triple<Lanes> directions[4];
  Triple<Lanes> corners;  // of the grid of directions
  double origin[3];
};

Frustum frustum(const View& view);
FrustumPoints points_of(const View& view);

constexpr float kTurn = 0.35f;  // weight of the angle between two views in their distance

class Sight {
 public:
  Sight(double near, double far);  // what counts as seen, metres

  uint64_t seen(const Frustum& frame, const FrustumPoints& points) const;  // one bit per point
  bool sees_centroid(const Frustum& frame, const Frustum& other) const;    // ... of the other
  Vec3 centroid(const Frustum& frame) const;

  // Between the centroids in units of far, plus kTurn · (1 - cosine of the angle).
  float distance(const Frustum& a, const Frustum& b) const;

 private:
  std::array<float, 4> depths_;  // middles of four strata of equal volume
  float range_;                  // far, as asked for
  float near_, far_;             // what counts as seen: near_ < z < far_
  float centroid_;               // depth of the frustum's centroid
};

}  // namespace rtfm
