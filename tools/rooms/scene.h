// SPDX-License-Identifier: Apache-2.0
// Random rooms and random walks in them: each a pure function of its seed. Host only.
//
// The order of the draws is part of the data set: another order is another set of rooms.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <vector>

#include "tools/rooms/render.h"

namespace rooms {

constexpr float kEyeHeight = 1.5f, kPitch = -0.06f;

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 0x1234567) {
    for (int i = 0; i < 4; i++) next();
  }
  float unit() { return (next() >> 40) * (1.f / 16777216.f); }
  float uniform(float low, float high) { return low + (high - low) * unit(); }
  int below(int count) { return (int)(unit() * count) % count; }
  bool chance(float p) { return unit() < p; }
  float normal() {
    const float a = unit() + 1e-7f, b = unit();
    return sqrtf(-2 * logf(a)) * cosf(6.2831853f * b);
  }

 private:
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545F4914F6CDD1Dull;
  }
  uint64_t state_;
};

inline Vec3 from_hsv(float hue, float saturation, float value) {
  const float h = fraction(hue) * 6;
  const auto clamp = [](float x) { return std::clamp(x, 0.f, 1.f); };
  const Vec3 pure = {clamp(fabsf(h - 3) - 1), clamp(2 - fabsf(h - 2)), clamp(2 - fabsf(h - 4))};
  return mix({1, 1, 1}, pure, saturation) * value;
}

struct Range {
  float low, high;
};

inline Vec3 random_tone(Rng& rng, float hue, Range saturation, Range value) {
  const float v = rng.uniform(value.low, value.high);
  return from_hsv(hue, rng.uniform(saturation.low, saturation.high), v);
}

inline Vec3 random_color(Rng& rng, Range saturation, Range value) {
  const float v = rng.uniform(value.low, value.high);
  const float s = rng.uniform(saturation.low, saturation.high);
  return from_hsv(rng.unit(), s, v);
}

inline Texture random_texture(Rng& rng, int pattern) {
  Texture t;
  t.pattern = pattern;
  const float hue = rng.unit();
  t.a = random_tone(rng, hue, {0.15f, 0.75f}, {0.45f, 0.95f});
  if (rng.chance(0.5f)) {
    const float v = rng.uniform(0.2f, 0.9f), s = rng.uniform(0.1f, 0.7f);
    t.b = from_hsv(hue + rng.uniform(-0.08f, 0.08f), s, v);
  } else {
    t.b = random_color(rng, {0.2f, 0.8f}, {0.25f, 0.95f});
  }
  t.scale = rng.uniform(0.5f, 1.1f);
  t.offset = rng.unit();
  t.share = rng.uniform(0.25f, 0.6f);
  return t;
}

inline Texture random_wall(Rng& rng) {
  constexpr int kPatterns[] = {kPlain, kPanelled, kStripes, kBricks, kPanelled, kPlain};
  return random_texture(rng, kPatterns[rng.below(6)]);
}

inline Box random_box(Rng& rng, const Scene& s) {
  constexpr int kPatterns[] = {kPlain, kPlain, kPlain, kStripes, kChecker, kBands};
  Box box;
  box.half.x = rng.uniform(0.2f, 0.5f);
  box.half.z = rng.uniform(0.2f, 0.5f);
  box.half.y = rng.uniform(0.2f, 0.8f);
  const float radius = std::max(box.half.x, box.half.z) * 1.42f;
  box.center.x = rng.uniform(-1, 1) * (s.half_x - radius);
  box.center.y = -box.half.y;
  box.center.z = rng.uniform(-1, 1) * (s.half_z - radius);
  const float turn = rng.chance(0.4f) ? 0 : rng.uniform(0, 3.14f);
  box.cosine = cosf(turn), box.sine = sinf(turn);
  box.texture = random_texture(rng, kPatterns[rng.below(6)]);
  box.texture.scale = rng.uniform(0.3f, 0.6f);
  return box;
}

inline Sphere random_sphere(Rng& rng, const Scene& s) {
  Sphere sphere;
  const float r = sphere.radius = rng.uniform(0.25f, 0.55f);
  sphere.center.x = rng.uniform(-1, 1) * (s.half_x - r);
  sphere.center.y = -r;
  sphere.center.z = rng.uniform(-1, 1) * (s.half_z - r);
  if (rng.chance(0.25f)) sphere.center.y -= rng.uniform(0.2f, 1.f);
  sphere.color = random_color(rng, {0.4f, 0.9f}, {0.5f, 0.95f});
  sphere.reflectance = rng.chance(0.35f) ? rng.uniform(0.5f, 0.85f) : rng.uniform(0.f, 0.1f);
  return sphere;
}

// A door, a mirror or a picture between low and high (of its centre) on a wall.
inline Panel random_panel(Rng& rng, int wall, float extent, int place, int places) {
  constexpr int kPatterns[] = {kPlain, kChecker, kStripes, kMarble, kBands};
  Panel panel;
  panel.wall = wall;
  const float half = rng.uniform(0.3f, 0.7f);
  float low = -extent + half + 0.1f, high = extent - half - 0.1f;
  if (places == 2) {
    (place == 0 ? high : low) = (place == 0 ? -1 : 1) * (half * 0.5f + 0.2f);
    if (low > high) low = high = (low + high) / 2;
  }
  const float center = rng.uniform(low, high);
  panel.u0 = center - half, panel.u1 = center + half;
  const int kind = rng.below(5);
  panel.texture = random_texture(rng, kPatterns[rng.below(5)]);
  panel.texture.scale = rng.uniform(0.25f, 0.5f);
  panel.reflectance = 0;
  const float value = rng.uniform(0.1f, 0.5f);
  panel.border = from_hsv(rng.unit(), 0.3f, value);
  if (kind == 0) {  // a door
    panel.v0 = 0, panel.v1 = 2.05f, panel.u1 = panel.u0 + 0.9f;
    panel.texture.pattern = kPlain;
  } else if (kind <= 2) {  // a mirror
    panel.v0 = 0.6f, panel.v1 = 2.1f;
    panel.reflectance = 0.88f, panel.border = from_hsv(0.1f, 0.5f, 0.45f);
  } else {
    panel.v0 = rng.uniform(0.9f, 1.2f);
    panel.v1 = rng.uniform(1.7f, 2.1f);
  }
  return panel;
}

inline Glass random_glass(Rng& rng, const Scene& s) {
  Glass glass = {};
  glass.present = rng.chance(0.2f);
  if (!glass.present) return glass;
  glass.z = rng.uniform(-0.6f, 0.6f) * s.half_z;
  glass.x0 = rng.uniform(-1.f, 0.f) * s.half_x;
  glass.x1 = glass.x0 + rng.uniform(1.f, 2.f);
  glass.height = rng.uniform(1.2f, 2.2f);
  glass.tint = from_hsv(rng.unit(), 0.25f, 0.95f);
  return glass;
}

inline Scene build_scene(uint64_t seed) {
  constexpr int kFloors[] = {kChecker, kChecker, kChecker, kMarble, kPlanks};
  Rng rng(seed + 77);
  Scene s;
  s.half_x = rng.uniform(2.2f, 3.6f);
  s.half_z = rng.uniform(2.2f, 3.6f);
  s.height = rng.uniform(2.5f, 3.2f);
  const Texture common = random_wall(rng);
  for (Texture& wall : s.walls) wall = rng.chance(0.45f) ? random_wall(rng) : common;
  s.floor = random_texture(rng, kFloors[rng.below(5)]);
  s.floor_reflectance = rng.chance(0.8f) ? rng.uniform(0.15f, 0.45f) : 0.f;
  random_texture(rng, kPlain);  // the ceiling's, of which only the draws are left
  s.ceiling = random_color(rng, {0, 0.15f}, {0.75f, 0.95f});
  s.lamp.x = rng.uniform(-0.5f, 0.5f) * s.half_x;
  s.lamp.y = -s.height + 0.25f;
  s.lamp.z = rng.uniform(-0.5f, 0.5f) * s.half_z;
  s.lamp_power = rng.uniform(2.5f, 4.5f);
  s.ambient = rng.uniform(0.3f, 0.45f);
  s.box_count = 1 + rng.below(3);
  for (int i = 0; i < s.box_count; i++) s.boxes[i] = random_box(rng, s);
  s.sphere_count = rng.below(4);
  for (int i = 0; i < s.sphere_count; i++) s.spheres[i] = random_sphere(rng, s);
  s.panel_count = 0;
  for (int wall = 0; wall < 4; wall++) {
    const int places = rng.below(3);
    for (int i = 0; i < places && s.panel_count < kMaxPanels; i++)
      s.panels[s.panel_count++] =
          random_panel(rng, wall, wall < 2 ? s.half_z : s.half_x, i, places);
  }
  s.glass = random_glass(rng, s);
  return s;
}

// Whether a walker may stand at (x, z).
inline bool is_free(const Scene& s, float x, float z) {
  constexpr float kBody = 0.35f;
  if (fabsf(x) > s.half_x - 0.5f || fabsf(z) > s.half_z - 0.5f) return false;
  for (int i = 0; i < s.box_count; i++) {
    const Box& b = s.boxes[i];
    const float px = x - b.center.x, pz = z - b.center.z;
    const float lx = fabsf(b.cosine * px + b.sine * pz), lz = fabsf(-b.sine * px + b.cosine * pz);
    if (lx < b.half.x + kBody && lz < b.half.z + kBody) return false;
  }
  for (int i = 0; i < s.sphere_count; i++) {
    const float px = x - s.spheres[i].center.x, pz = z - s.spheres[i].center.z;
    const float r = s.spheres[i].radius + kBody;
    if (px * px + pz * pz < r * r) return false;
  }
  const Glass& g = s.glass;
  return !(g.present && x > g.x0 - 0.3f && x < g.x1 + 0.3f && fabsf(z - g.z) < kBody);
}

struct Stand {
  float x, z, yaw, pitch;
};

// Camera-to-world: right, down, forward, position: pose [12].
inline void write_pose(const Stand& at, float* pose) {
  const float cy = cosf(at.yaw), sy = sinf(at.yaw), cp = cosf(at.pitch), sp = sinf(at.pitch);
  const Vec3 r = {cy, 0, -sy}, f = {sy * cp, -sp, cy * cp};
  const Vec3 d = {f.y * r.z - f.z * r.y, f.z * r.x - f.x * r.z, f.x * r.y - f.y * r.x};
  const float values[] = {r.x, r.y, r.z, d.x, d.y, d.z, f.x, f.y, f.z, at.x, -kEyeHeight, at.z};
  std::copy(std::begin(values), std::end(values), pose);
}

inline Camera make_camera(const float* p, float fx, float fy) {
  return {{p[0], p[1], p[2]}, {p[3], p[4], p[5]}, {p[6], p[7], p[8]}, {p[9], p[10], p[11]}, fx, fy};
}

inline Stand random_start(Rng& rng, const Scene& s) {
  Stand start = {0, 0, 0, kPitch};
  for (int k = 0; k < 300; k++) {
    start.x = rng.uniform(-1, 1) * (s.half_x - 0.5f);
    start.z = rng.uniform(-1, 1) * (s.half_z - 0.5f);
    if (is_free(s, start.x, start.z)) break;
  }
  start.yaw = rng.uniform(-3.14159f, 3.14159f);
  if (rng.chance(0.6f))
    start.yaw = atan2f(-start.x, -start.z) + rng.normal() * 0.7f;  // look into the room
  start.pitch += rng.normal() * 0.05f;
  return start;
}

// The gait of a walk, which now and then changes.
struct Gait {
  float stride, heading, turn;
};

inline Stand walk_on(Rng& rng, const Stand& from, Gait& gait, bool change) {
  if (change) {
    gait.turn = rng.normal() * 0.25f;
    if (rng.chance(0.4f)) gait.heading = rng.uniform(-3.14f, 3.14f);
  }
  Stand to = from;
  to.yaw = from.yaw + gait.turn + rng.normal() * 0.03f;
  float length = gait.stride * rng.uniform(0.5f, 1.3f);
  if (rng.chance(0.15f)) length = 0;
  to.x = from.x + length * sinf(to.yaw + gait.heading);
  to.z = from.z + length * cosf(to.yaw + gait.heading);
  to.pitch = kPitch + rng.normal() * 0.05f;
  return to;
}

inline Stand look_around(Rng& rng, const Stand& center, float radius, float spread) {
  Stand to = center;
  const float angle = rng.uniform(0, 6.283f), distance = radius * sqrtf(rng.unit());
  to.x = center.x + distance * sinf(angle);
  to.z = center.z + distance * cosf(angle);
  to.yaw = center.yaw + rng.normal() * spread;
  to.pitch = kPitch + rng.normal() * 0.05f;
  return to;
}

// From (almost) where an earlier view was taken.
inline Stand come_back(Rng& rng, Stand at) {
  if (rng.chance(0.5f)) {  // exactly: the draws are made all the same
    for (int i = 0; i < 3; i++) rng.normal();
    return at;
  }
  at.x += 0.04f * rng.normal();
  at.z += 0.04f * rng.normal();
  at.yaw += 0.03f * rng.normal();
  return at;
}

// Views of one room: a walk in a little more than half of them, otherwise looks around one place;
// now and then one comes back to an earlier view. poses [views, 12].
inline void sample_poses(uint64_t seed, int views, float* poses) {
  const Scene s = build_scene(seed);
  Rng rng(seed * 17 + 5);
  const Stand start = random_start(rng, s);
  const bool walks = rng.chance(0.55f);
  Gait gait;
  gait.stride = rng.uniform(0.08f, 0.45f);
  gait.heading = rng.chance(0.7f) ? 0.f : rng.uniform(-3.14f, 3.14f);
  gait.turn = rng.normal() * 0.2f;
  const float radius = rng.uniform(0.15f, 1.1f), spread = rng.uniform(0.1f, 0.6f);
  std::vector<Stand> stands = {start};
  for (int view = 1; view < views; view++) {
    if (rng.chance(0.1f)) {
      stands.push_back(come_back(rng, stands[rng.below(view)]));
      continue;
    }
    const Stand from = walks ? stands.back() : start;
    Stand to = from;
    for (int attempt = 0; attempt < 30; attempt++) {
      to = walks ? walk_on(rng, from, gait, attempt > 0 || rng.chance(0.2f))
                 : look_around(rng, start, radius, spread);
      if (is_free(s, to.x, to.z)) break;
      to.x = from.x, to.z = from.z;  // when all attempts fail: turn on the spot
    }
    stands.push_back(to);
  }
  for (int view = 0; view < views; view++) write_pose(stands[view], poses + 12 * view);
}

}  // namespace rooms
