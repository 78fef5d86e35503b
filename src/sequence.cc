// SPDX-License-Identifier: Apache-2.0
#include "src/sequence.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "src/check.h"

namespace rtfm {
namespace {

// r · s, both row-major
std::array<double, 9> product(const std::array<double, 9>& r, const std::array<double, 9>& s) {
  std::array<double, 9> p{};
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 3; ++k) p[3 * i + j] += r[3 * i + k] * s[3 * k + j];
  return p;
}

// A unit vector along the ground; `otherwise` when v is vertical.
Vec3 level(const Vec3& v, const Vec3& otherwise) {
  const double length = std::hypot(v[0], v[2]);
  if (length > 1e-6) return {v[0] / length, 0, v[2] / length};
  const double other = std::hypot(otherwise[0], otherwise[2]);
  return {otherwise[0] / other, 0, otherwise[2] / other};
}

}  // namespace

std::vector<int64_t> sequence_context(const Sequence& s, int64_t frame) {
  std::vector<int64_t> ids;
  for_each_seen(s, frame, [&](int64_t id) { ids.push_back(id); });
  return ids;
}

int window_size(const Sequence& s) {
  if (!s.every) return s.recent;
  size_t most = 0;
  const int64_t full = std::max(s.recent, s.within) + s.every;
  for (int64_t frame = full; frame < full + s.every; ++frame)
    most = std::max(most, sequence_context(s, frame).size());
  return int(most);
}

size_t find_action(const Manifest& m, std::string_view name) {
  const std::vector<Action>& known = m.actions;
  size_t i = 0;
  while (i < known.size() && known[i].name != name) ++i;
  if (i < known.size()) return i;
  std::string names;
  for (size_t j = 0; j < known.size() && j < 12; ++j) names += (j ? ", " : "") + known[j].name;
  fail<ArgumentError>("action: expected names among ", names, known.size() > 12 ? ", ..." : "",
                      " (", known.size(), "), got '", name, "'");
}

Pose reckon(const Pose& from, std::span<const Action> actions, std::span<const float> values) {
  Vec3 move{};
  double yaw = 0, pitch = 0;
  for (size_t i = 0; i < actions.size(); ++i) {
    for (size_t axis = 0; axis < 3; ++axis) move[axis] += actions[i].move[axis] * double(values[i]);
    yaw += actions[i].turn[0] * double(values[i]);
    pitch += actions[i].turn[1] * double(values[i]);
  }
  Pose to = from;
  const Vec3 right = level(from.axis(0), from.axis(2));
  const Vec3 ahead{-right[2], 0, right[0]};  // the world's y axis points down
  for (size_t axis = 0; axis < 3; ++axis)
    to.position[axis] += right[axis] * move[0] + ahead[axis] * move[2];
  to.position[1] += move[1];
  yaw *= std::numbers::pi / 180, pitch *= std::numbers::pi / 180;
  if (yaw != 0)
    to.rotation = product(
        {std::cos(yaw), 0, std::sin(yaw), 0, 1, 0, -std::sin(yaw), 0, std::cos(yaw)}, to.rotation);
  if (pitch != 0)
    to.rotation = product(to.rotation, {1, 0, 0, 0, std::cos(pitch), -std::sin(pitch), 0,
                                        std::sin(pitch), std::cos(pitch)});
  to.rotation = nearest_rotation(to.rotation);  // rounding adds up over a long walk
  return to;
}

}  // namespace rtfm
