// SPDX-License-Identifier: Apache-2.0
// The colour of one pixel of one room, for the host and for CUDA alike.
//
// World: right-handed, metres, y down, floor y = 0, ceiling y = -height, walls at x = ±half_x and z
// = ±half_z. Rays meet analytic shapes; light is one lamp with hard shadows, reflections bounce
// once.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ROOMS_FN __host__ __device__ inline
#else
#define ROOMS_FN inline
#endif

namespace rooms {

struct Vec3 {
  float x, y, z;
};

ROOMS_FN Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
ROOMS_FN Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
ROOMS_FN Vec3 operator*(Vec3 a, Vec3 b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }
ROOMS_FN Vec3 operator*(Vec3 a, float s) { return {a.x * s, a.y * s, a.z * s}; }
ROOMS_FN float dot(Vec3 a, Vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
ROOMS_FN Vec3 mix(Vec3 a, Vec3 b, float t) { return a * (1 - t) + b * t; }
ROOMS_FN Vec3 reflect(Vec3 d, Vec3 n) { return d - n * (2 * dot(d, n)); }

enum Pattern { kPlain, kChecker, kStripes, kBricks, kPanelled, kMarble, kPlanks, kBands };

struct Texture {
  int pattern;
  Vec3 a, b;
  float scale, offset, share;
};

struct Box {
  Vec3 center, half;
  float cosine, sine;  // of the turn about y
  Texture texture;
};

struct Sphere {
  Vec3 center;
  float radius;
  Vec3 color;
  float reflectance;
};

// A door, mirror or picture: u along the wall, v = height above the floor.
struct Panel {
  int wall;  // 0 x+, 1 x-, 2 z+, 3 z-
  float u0, u1, v0, v1;
  Texture texture;
  float reflectance;
  Vec3 border;
};

// A framed pane that stands in the plane z.
struct Glass {
  bool present;
  float x0, x1, z, height;
  Vec3 tint;
};

constexpr int kMaxBoxes = 3, kMaxSpheres = 3, kMaxPanels = 6;

struct Scene {
  float half_x, half_z, height;
  Texture walls[4], floor;
  Vec3 ceiling;
  float floor_reflectance;
  int box_count, sphere_count, panel_count;
  Box boxes[kMaxBoxes];
  Sphere spheres[kMaxSpheres];
  Panel panels[kMaxPanels];
  Glass glass;
  Vec3 lamp;
  float lamp_power, ambient;
};

// Camera-to-world: its axes and where it is. Focal lengths in units of image width and height.
struct Camera {
  Vec3 right, down, forward, position;
  float fx, fy;
};

struct Hit {
  float distance;
  Vec3 normal, color;
  float reflectance;
  bool glass;
};

constexpr float kNear = 1e-3f,
                kLift = 2e-3f;  // metres: nothing closer is met; off the surface for the next ray

ROOMS_FN float fraction(float x) { return x - floorf(x); }

ROOMS_FN Vec3 texture_color(const Texture& t, float u, float v) {
  switch (t.pattern) {
    case kChecker: {
      const int column = (int)floorf(u / t.scale + t.offset),
                row = (int)floorf(v / t.scale + t.offset);
      return ((column + row) & 1) ? t.a : t.b;
    }
    case kStripes:
      return fraction(u / t.scale + t.offset) < t.share ? t.a : t.b;
    case kBricks: {
      const float height = t.scale * 0.5f, row = floorf(v / height);
      const float across = fraction(u / t.scale + 0.5f * ((int)row & 1) + t.offset);
      return across < 0.08f || v / height - row < 0.14f ? t.b : t.a;
    }
    case kPanelled:
      return v < 0.8f ? t.b : v < 0.9f ? t.b * 0.5f : t.a;
    case kMarble: {
      const float inner = sinf(v * 1.7f + 1.3f * sinf(u * 1.1f + t.offset * 9));
      const float q = sinf(u * 2.1f + t.offset * 6 + 1.5f * inner) * 0.5f + 0.5f;
      return mix(t.a, t.b, q * q * 0.8f);
    }
    case kPlanks: {
      const float row = floorf(v / (t.scale * 0.5f));
      return mix(t.a, t.b, fraction(sinf(row * 12.9898f + t.offset * 50) * 43758.547f) * 0.7f);
    }
    case kBands:
      return fraction(v / t.scale + t.offset) < t.share ? t.a : t.b;
    default:
      return t.a;
  }
}

struct BoxHit {
  float distance, side;  // side: the sign of the normal
  int axis;
  Vec3 local;
};

ROOMS_FN bool meet_box(const Box& box, Vec3 o, Vec3 d, float limit, BoxHit& hit) {
  const Vec3 p = o - box.center;
  const Vec3 lo = {box.cosine * p.x + box.sine * p.z, p.y, -box.sine * p.x + box.cosine * p.z};
  const Vec3 ld = {box.cosine * d.x + box.sine * d.z, d.y, -box.sine * d.x + box.cosine * d.z};
  const Vec3 inverse = {1 / ld.x, 1 / ld.y, 1 / ld.z};
  const Vec3 t0 = (box.half * -1.f - lo) * inverse, t1 = (box.half - lo) * inverse;
  const Vec3 in = {fminf(t0.x, t1.x), fminf(t0.y, t1.y), fminf(t0.z, t1.z)};
  const Vec3 out = {fmaxf(t0.x, t1.x), fmaxf(t0.y, t1.y), fmaxf(t0.z, t1.z)};
  const float near = fmaxf(in.x, fmaxf(in.y, in.z)), far = fminf(out.x, fminf(out.y, out.z));
  if (near > far || near < kNear || near >= limit) return false;
  hit.axis = near == in.x ? 0 : near == in.y ? 1 : 2;
  const float along = hit.axis == 0 ? ld.x : hit.axis == 1 ? ld.y : ld.z;
  hit.side = along > 0 ? -1.f : 1.f;
  hit.distance = near;
  hit.local = lo + ld * near;
  return true;
}

// Distance to the front of the sphere, or `limit`.
ROOMS_FN float meet_sphere(const Sphere& sphere, Vec3 o, Vec3 d, float limit) {
  const Vec3 p = o - sphere.center;
  const float b = dot(p, d), q = b * b - dot(p, p) + sphere.radius * sphere.radius;
  if (q <= 0) return limit;
  const float t = -b - sqrtf(q);
  return t > kNear && t < limit ? t : limit;
}

ROOMS_FN bool occluded(const Scene& s, Vec3 o, Vec3 d, float limit) {
  BoxHit hit;
  for (int i = 0; i < s.box_count; i++)
    if (meet_box(s.boxes[i], o, d, limit, hit)) return true;
  for (int i = 0; i < s.sphere_count; i++)
    if (meet_sphere(s.spheres[i], o, d, limit) < limit) return true;
  return false;
}

// True when the ray meets the pane or its frame before h.distance.
ROOMS_FN bool meet_glass(const Glass& glass, Vec3 o, Vec3 d, Hit& h) {
  if (!glass.present || fabsf(d.z) <= 1e-6f) return false;
  const float t = (glass.z - o.z) / d.z;
  if (!(t > kNear && t < h.distance)) return false;
  const float x = o.x + d.x * t, y = -(o.y + d.y * t), frame = 0.06f;
  if (x <= glass.x0 || x >= glass.x1 || y <= 0 || y >= glass.height) return false;
  const bool edge = x < glass.x0 + frame || x > glass.x1 - frame || y > glass.height - frame;
  h = {t, {0, 0, d.z > 0 ? -1.f : 1.f}, {0.25f, 0.25f, 0.28f}, edge ? 0.f : 0.18f, !edge};
  return true;
}

ROOMS_FN void wall_surface(const Scene& s, int wall, Vec3 p, Hit& h) {
  const float u = wall < 2 ? p.z : p.x, v = -p.y, sign = wall & 1 ? 1.f : -1.f;
  h.normal = wall < 2 ? Vec3{sign, 0, 0} : Vec3{0, 0, sign};
  h.color = texture_color(s.walls[wall], u, v) * (v < 0.12f ? 0.5f : 1.f);
  for (int i = 0; i < s.panel_count; i++) {
    const Panel& q = s.panels[i];
    if (q.wall != wall || u < q.u0 || u > q.u1 || v < q.v0 || v > q.v1) continue;
    const float across = fminf(u - q.u0, q.u1 - u), up = fminf(q.v0 > 0 ? v - q.v0 : 1.f, q.v1 - v);
    const bool edge = fminf(across, up) < 0.07f;
    h.color = edge ? q.border : texture_color(q.texture, u - q.u0, v - q.v0);
    h.reflectance = edge ? 0.f : q.reflectance;
  }
}

// Where the ray leaves the empty room: wall 0 to 3, floor 4, ceiling 5.
ROOMS_FN int leave_room(const Scene& s, Vec3 o, Vec3 d, float& distance) {
  const float tx = d.x > 0 ? (s.half_x - o.x) / d.x : d.x < 0 ? (-s.half_x - o.x) / d.x : 1e9f;
  const float tz = d.z > 0 ? (s.half_z - o.z) / d.z : d.z < 0 ? (-s.half_z - o.z) / d.z : 1e9f;
  const float ty = d.y > 0 ? -o.y / d.y : d.y < 0 ? (-s.height - o.y) / d.y : 1e9f;
  distance = fminf(tx, fminf(ty, tz));
  if (tx < tz && tx < ty) return d.x > 0 ? 0 : 1;
  if (tz < ty) return d.z > 0 ? 2 : 3;
  return d.y > 0 ? 4 : 5;
}

ROOMS_FN Hit trace(const Scene& s, Vec3 o, Vec3 d, bool through_glass) {
  Hit h = {0, {0, 0, 0}, {0, 0, 0}, 0.f, false};
  const int side = leave_room(s, o, d, h.distance);
  int box = -1, sphere = -1;
  BoxHit best = {0, 0, 0, {0, 0, 0}}, hit;
  for (int i = 0; i < s.box_count; i++) {
    if (!meet_box(s.boxes[i], o, d, h.distance, hit)) continue;
    h.distance = hit.distance, best = hit, box = i;
  }
  for (int i = 0; i < s.sphere_count; i++) {
    const float t = meet_sphere(s.spheres[i], o, d, h.distance);
    if (t < h.distance) h.distance = t, sphere = i;
  }
  if (through_glass && meet_glass(s.glass, o, d, h)) return h;
  const Vec3 p = o + d * h.distance;
  if (sphere >= 0) {
    const Sphere& q = s.spheres[sphere];
    h.normal = (p - q.center) * (1 / q.radius), h.color = q.color, h.reflectance = q.reflectance;
  } else if (box >= 0) {
    const Box& b = s.boxes[box];
    const float nx = best.axis == 0 ? best.side : 0.f, nz = best.axis == 2 ? best.side : 0.f;
    h.normal = {b.cosine * nx - b.sine * nz, best.axis == 1 ? best.side : 0.f,
                b.sine * nx + b.cosine * nz};
    const float u = best.axis == 0 ? best.local.z : best.local.x;
    const float v = best.axis == 1 ? best.local.z : best.local.y;
    h.color = texture_color(b.texture, u + 0.13f, v + 0.07f) * (best.axis == 1 ? 1.f : 0.92f);
  } else if (side == 4) {
    h.normal = {0, -1, 0}, h.color = texture_color(s.floor, p.x, p.z),
    h.reflectance = s.floor_reflectance;
  } else if (side == 5) {
    h.normal = {0, 1, 0}, h.color = s.ceiling;
  } else {
    wall_surface(s, side, p, h);
  }
  return h;
}

// Ambient light, darker near the walls, and the lamp where nothing hides it.
ROOMS_FN Vec3 shade(const Scene& s, Vec3 p, const Hit& h) {
  const Vec3 to_lamp = s.lamp - p;
  const float square = dot(to_lamp, to_lamp), distance = sqrtf(square);
  const Vec3 l = to_lamp * (1 / distance);
  float light = s.ambient;
  if (fabsf(h.normal.x) < 0.5f) light *= fminf(1.f, (s.half_x - fabsf(p.x)) * 1.5f + 0.55f);
  if (fabsf(h.normal.z) < 0.5f) light *= fminf(1.f, (s.half_z - fabsf(p.z)) * 1.5f + 0.55f);
  const float facing = dot(h.normal, l);
  if (facing > 0 && !occluded(s, p + h.normal * kLift, l, distance))
    light += 0.75f * facing * s.lamp_power / (1.f + square * 0.45f);
  return h.color * light;
}

ROOMS_FN float fresnel(float cosine) {
  const float x = 1 - fabsf(cosine);
  return x * x * x * x * x;
}

// What a mirror at the hit shows.
ROOMS_FN Vec3 reflection(const Scene& s, Vec3 p, Vec3 d, const Hit& h) {
  const Vec3 o = p + h.normal * kLift, r = reflect(d, h.normal);
  const Hit seen = trace(s, o, r, false);
  return shade(s, o + r * seen.distance, seen);
}

ROOMS_FN Vec3 radiance(const Scene& s, Vec3 o, Vec3 d) {
  Vec3 sum = {0, 0, 0}, through = {1, 1, 1};
  Hit h = trace(s, o, d, true);
  Vec3 p = o + d * h.distance;
  if (h.glass) {
    const float f = h.reflectance + (1 - h.reflectance) * fresnel(dot(d, h.normal));
    sum = reflection(s, p, d, h) * f;
    through = s.glass.tint * (1 - f);
    o = p + d * kLift;
    h = trace(s, o, d, false);
    p = o + d * h.distance;
  }
  Vec3 color = shade(s, p, h);
  if (h.reflectance > 0.02f) {
    const float f = h.reflectance + (1 - h.reflectance) * fresnel(dot(d, h.normal)) * 0.6f;
    color = mix(color, reflection(s, p, d, h), f);
  }
  return sum + through * color;
}

ROOMS_FN uint8_t to_byte(float x) { return (uint8_t)(fminf(1.f, sqrtf(x)) * 255.f + 0.5f); }

// The pixel in column x and row y of a height × width picture, from samples × samples rays; rgb
// [3].
ROOMS_FN void render_pixel(const Scene& s, const Camera& c, int x, int y, int height, int width,
                           int samples, uint8_t* rgb) {
  Vec3 sum = {0, 0, 0};
  for (int j = 0; j < samples; j++) {
    for (int i = 0; i < samples; i++) {
      const float u = ((x + (i + 0.5f) / samples) / width - 0.5f) / c.fx;
      const float v = ((y + (j + 0.5f) / samples) / height - 0.5f) / c.fy;
      const Vec3 d = c.forward + c.right * u + c.down * v;
      const Vec3 color = radiance(s, c.position, d * (1 / sqrtf(dot(d, d))));
      sum = sum + Vec3{fminf(color.x, 1.f), fminf(color.y, 1.f), fminf(color.z, 1.f)};
    }
  }
  sum = sum * (1.f / (samples * samples));
  rgb[0] = to_byte(sum.x), rgb[1] = to_byte(sum.y), rgb[2] = to_byte(sum.z);
}

}  // namespace rooms
