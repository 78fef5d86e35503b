// SPDX-License-Identifier: Apache-2.0
#include "src/frame_cache.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "src/check.h"

namespace rtfm {
namespace {

constexpr float kFarMargin = 1.05f;   // a frame sees a little beyond the frustum it is asked for
constexpr float kCentroid = 0.72f;    // depth of the frustum's centroid, in units of far
constexpr float kTurn = 0.35f;        // weight of the angle between two views in the proxy
constexpr int kRedundantPoints = 58;  // 0.9 of 64

void check_retrieval(const Retrieval& r, int64_t capacity) {
  check<ArgumentError>(r.context >= 1 && r.context <= kMaxContext, "context: expected 1 .. ",
                       kMaxContext, " frames, got ", r.context);
  check<ArgumentError>(
      r.sinks >= 0 && r.recent >= 0 && r.sinks <= r.context && r.recent <= r.context - r.sinks,
      "retrieval: expected sinks + recent <= context = ", r.context, ", got ", r.sinks, " + ",
      r.recent, "; raise the context");
  check<ArgumentError>(r.near >= 0 && r.near < r.far && std::isfinite(r.far),
                       "retrieval: expected 0 <= near < far, got near ", r.near, " and far ",
                       r.far);
  const int64_t least = r.sinks + r.recent + 1;
  check<ArgumentError>(capacity >= least && capacity <= std::numeric_limits<int32_t>::max(),
                       "memory: expected room for at least ", least, " frames, got ", capacity,
                       "; raise the memory budget");
}

Frustum frustum(const View& view) {
  const double over_tangent[3] = {2 * view.intrinsics.fx, 2 * view.intrinsics.fy, 1};
  Frustum frame;
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

FrameCache::FrameCache(const Retrieval& retrieval, int64_t capacity) : retrieval_(retrieval) {
  check_retrieval(retrieval, capacity);
  const double near3 = std::pow(retrieval.near, 3), far3 = std::pow(retrieval.far, 3);
  for (int i = 0; i < 4; ++i) {
    const double u = (i + 0.5) / 4;
    depths_[i] = static_cast<float>(std::cbrt(u * far3 + (1 - u) * near3));
  }
  near_ = static_cast<float>(retrieval.near);
  far_ = static_cast<float>(retrieval.far) * kFarMargin;
  centroid_ = static_cast<float>(retrieval.far) * kCentroid;
  order_.reserve(capacity);
  frusta_.resize(capacity);
  views_.resize(capacity);
  ids_.resize(capacity);
  used_.resize(capacity);
  witnesses_.resize(capacity);
  masks_.resize(capacity);
  proxies_.resize(capacity);
  gains_.resize(capacity);
}

// ---- geometry, in float relative to one of the two cameras

uint64_t FrameCache::seen(const Frustum& frame, const FrustumPoints& points) const {
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

float FrameCache::proxy(const Frustum& a, const Frustum& b) const {
  const float* f = a.rows + 6;
  const float* g = b.rows + 6;
  float square = 0;
  for (int i = 0; i < 3; ++i) {
    const float d = static_cast<float>(a.position[i] - b.position[i]) + centroid_ * (f[i] - g[i]);
    square += d * d;
  }
  const float cosine = f[0] * g[0] + f[1] * g[1] + f[2] * g[2];
  return std::sqrt(square) / static_cast<float>(retrieval_.far) + kTurn * (1 - cosine);
}

// The centroid comes first because it settles most pairs at a tenth of the cost.
bool FrameCache::stands_in(int32_t newer, int32_t older) const {
  const Frustum& frame = frusta_[newer];
  const Frustum& other = frusta_[older];
  float p[3];
  for (int i = 0; i < 3; ++i)
    p[i] =
        static_cast<float>(other.position[i] - frame.position[i]) + centroid_ * other.rows[6 + i];
  const auto [x, y, z] = rotate(frame.rows, Triple<float>{p[0], p[1], p[2]});
  if (!(z > near_ && z < far_ && std::abs(x) <= z && std::abs(y) <= z)) return false;
  return std::popcount(seen(frame, points_of(views_[older]))) >= kRedundantPoints;
}

// ---- planning

void FrameCache::scan(const View& query) {
  const FrustumPoints points = points_of(query);
  const Frustum here = frustum(query);
  const int32_t n = static_cast<int32_t>(size());
  for (int32_t i = 0; i < n; ++i) masks_[i] = seen(frusta_[i], points);
  for (int32_t i = 0; i < n; ++i) proxies_[i] = proxy(frusta_[i], here);
  for (int32_t i = 0; i < n; ++i) gains_[i] = static_cast<int8_t>(std::popcount(masks_[i]));
}

void FrameCache::take(int32_t slot, Plan& plan, uint64_t& left) {
  if (gains_[slot] < 0) return;
  gains_[slot] = -1;
  left &= ~masks_[slot];
  plan.slots[plan.count] = slot;
  plan.ids[plan.count] = ids_[slot];
  plan.seen[plan.count] = masks_[slot];
  ++plan.count;
}

// The frame that adds most, the nearer one of two, then the smaller id; -1 when none adds anything.
// Gains only shrink, so a frame whose old gain is too small is not counted again.
int32_t FrameCache::most_added(uint64_t left) {
  int32_t best = -1;
  int most = 1;
  for (int32_t i = 0; i < static_cast<int32_t>(size()); ++i) {
    if (gains_[i] < most) continue;
    gains_[i] = static_cast<int8_t>(std::popcount(masks_[i] & left));
    if (gains_[i] < most) continue;
    const bool better = best < 0 || gains_[i] > most || proxies_[i] < proxies_[best] ||
                        (proxies_[i] == proxies_[best] && ids_[i] < ids_[best]);
    if (better) best = i, most = gains_[i];
  }
  return best;
}

// The nearest frame not taken, those that see anything of the view before the others.
int32_t FrameCache::nearest_left() const {
  int32_t best = -1;
  for (int32_t i = 0; i < static_cast<int32_t>(size()); ++i) {
    if (gains_[i] < 0) continue;
    const auto key = [&](int32_t s) { return std::tuple(masks_[s] == 0, proxies_[s], ids_[s]); };
    if (best < 0 || key(i) < key(best)) best = i;
  }
  return best;
}

Plan FrameCache::peek(const View& query) {
  scan(query);
  Plan plan;
  uint64_t left = ~uint64_t{0};
  const int n = static_cast<int>(size());
  for (int i = 0; i < std::min(retrieval_.sinks, n); ++i) take(order_[i], plan, left);
  for (int i = 0; i < std::min(retrieval_.recent, n); ++i) take(order_[n - 1 - i], plan, left);
  while (plan.count < std::min(retrieval_.context, n)) {
    int32_t slot = most_added(left);
    if (slot < 0) slot = nearest_left();
    take(slot, plan, left);
  }
  plan.support = std::popcount(~left) / 64.0;
  return plan;
}

Plan FrameCache::plan(const View& query) {
  const Plan plan = peek(query);
  ++clock_;
  for (int i = 0; i < plan.count; ++i) used_[plan.slots[i]] = clock_;
  return plan;
}

// ---- remembering

int32_t FrameCache::insert(int64_t id, const View& view) {
  check_intrinsics(view.intrinsics);
  check<WorldError>(find(id) < 0, "frame ", id, ": expected a new id, got one that is in memory");
  const int32_t slot = size() < capacity() ? static_cast<int32_t>(size()) : evict();
  put(slot, view);
  ids_[slot] = id;
  used_[slot] = ++clock_;
  for (int32_t older : order_) consider(slot, older);
  order_.push_back(slot);
  return slot;
}

void FrameCache::put(int32_t slot, const View& view) {
  views_[slot] = view;
  frusta_[slot] = frustum(view);
  witnesses_[slot].count = 0;
}

// Keeps `newer` as a witness of `older` if it is one and there is room in the list.
void FrameCache::consider(int32_t newer, int32_t older) {
  Witnesses& w = witnesses_[older];
  if (w.count < kWitnesses && stands_in(newer, older)) w.slots[w.count++] = newer;
}

int32_t FrameCache::evict() {
  const auto first = order_.begin() + retrieval_.sinks, last = order_.end() - retrieval_.recent;
  const auto key = [&](int32_t s) { return std::pair(witnesses_[s].count < kWitnesses, used_[s]); };
  const auto victim =
      std::min_element(first, last, [&](int32_t a, int32_t b) { return key(a) < key(b); });
  const int32_t slot = *victim;
  order_.erase(victim);
  forget_witness(slot);
  ++evicted_;
  return slot;
}

void FrameCache::forget_witness(int32_t slot) {
  for (int32_t s : order_) {
    Witnesses& w = witnesses_[s];
    w.count = static_cast<int32_t>(std::remove(w.slots, w.slots + w.count, slot) - w.slots);
  }
}

void FrameCache::update_view(int64_t id, const View& view) {
  check_intrinsics(view.intrinsics);
  const int32_t slot = slot_of(id);
  forget_witness(slot);
  put(slot, view);
  const auto here = std::find(order_.begin(), order_.end(), slot);
  for (auto older = order_.begin(); older != here; ++older) consider(slot, *older);
  for (auto newer = here + 1; newer != order_.end(); ++newer) consider(*newer, slot);
}

// ---- questions

std::vector<int64_t> FrameCache::nearest(const Pose& pose, int k) const {
  check<ArgumentError>(k >= 0, "nearest: expected k >= 0, got ", k);
  const Frustum here = frustum({pose, {0.5, 0.5}});  // the proxy does not look at the focal lengths
  std::vector<std::pair<float, int64_t>> found;
  for (int32_t s : order_) found.emplace_back(proxy(frusta_[s], here), ids_[s]);
  std::sort(found.begin(), found.end());
  std::vector<int64_t> result;
  for (int64_t i = 0; i < std::min<int64_t>(k, size()); ++i) result.push_back(found[i].second);
  return result;
}

double FrameCache::coverage(const View& query) const {
  const FrustumPoints points = points_of(query);
  uint64_t mask = 0;
  for (int32_t s : order_) mask |= seen(frusta_[s], points);
  return std::popcount(mask) / 64.0;
}

std::vector<int64_t> FrameCache::ids() const {
  std::vector<int64_t> result;
  for (int32_t s : order_) result.push_back(ids_[s]);
  return result;
}

std::vector<int64_t> FrameCache::ids_by_use() const {
  std::vector<int32_t> slots = order_;
  std::stable_sort(slots.begin(), slots.end(), [&](auto a, auto b) { return used_[a] < used_[b]; });
  std::vector<int64_t> result;
  for (int32_t s : slots) result.push_back(ids_[s]);
  return result;
}

void FrameCache::use(int64_t id) { used_[slot_of(id)] = ++clock_; }

int32_t FrameCache::find(int64_t id) const {
  const auto end = ids_.begin() + size();
  const auto it = std::find(ids_.begin(), end, id);
  return it == end ? -1 : static_cast<int32_t>(it - ids_.begin());
}

int32_t FrameCache::slot_of(int64_t id) const {
  const int32_t slot = find(id);
  check<WorldError>(slot >= 0, "frame ", id, ": expected an id in memory, got one that is not; ",
                    "it was never committed or has been evicted");
  return slot;
}

}  // namespace rtfm
