// SPDX-License-Identifier: Apache-2.0
// A wall that is a mirror shows what a ray from the mirror would meet: exits with 0 if so.
#include <cmath>

#include "tools/rooms/render.h"

namespace {

using rooms::Vec3;

// An empty room with checkered walls; the one at x+ is a black mirror up to 1 m above the floor.
rooms::Scene mirror_room(float reflectance) {
  rooms::Scene s = {};
  s.half_x = 2, s.half_z = 3, s.height = 2.5f;
  for (rooms::Texture& wall : s.walls)
    wall = {rooms::kChecker, {0.9f, 0.2f, 0.1f}, {0.1f, 0.3f, 0.8f}, 0.7f, 0.2f, 0.5f};
  s.floor = s.walls[0];
  s.ceiling = {0.8f, 0.8f, 0.8f};
  s.lamp = {0.3f, -2.2f, 0.4f}, s.lamp_power = 3, s.ambient = 0.4f;
  s.panel_count = 1;
  s.panels[0] = {0, -3, 3, 0, 1, {rooms::kPlain, {0, 0, 0}, {0, 0, 0}, 1, 0, 0}, reflectance, {}};
  return s;
}

bool close(Vec3 a, Vec3 b) {
  const Vec3 d = a - b;
  return std::sqrt(rooms::dot(d, d)) < 1e-4f;
}

// Whether, from o, a point of the mirror shows a share of what the reflected ray sees: that of a
// surface that reflects r of the light.
bool shows_reflection(const rooms::Scene& s, Vec3 o, Vec3 point, float r) {
  Vec3 d = point - o;
  d = d * (1 / std::sqrt(rooms::dot(d, d)));
  const float share = r + (1 - r) * 0.6f * std::pow(1 - std::fabs(d.x), 5.f);
  const Vec3 start = point - Vec3{rooms::kLift, 0, 0};
  const Vec3 seen = rooms::radiance(s, start, {-d.x, d.y, d.z});
  return rooms::dot(seen, seen) > 0.01f && close(rooms::radiance(s, o, d), seen * share);
}

}  // namespace

int main() {
  const rooms::Scene mirror = mirror_room(0.88f), dull = mirror_room(0.f);
  const Vec3 eye = {-0.7f, -1.5f, 0.2f};
  int wrong = 0;
  for (float z = -2.f; z <= 2.f; z += 0.25f) {
    const Vec3 point = {2, -0.6f, z};
    wrong += !shows_reflection(mirror, eye, point, 0.88f);
    wrong += shows_reflection(dull, eye, point, 0.88f);  // a check that cannot fail proves nothing
  }
  return wrong == 0 ? 0 : 1;
}
