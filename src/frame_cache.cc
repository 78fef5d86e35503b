// SPDX-License-Identifier: Apache-2.0
#include "src/frame_cache.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>
#include <tuple>
#include <utility>

#include "src/check.h"

namespace rtfm {
namespace {

constexpr int kScanned = 48, kScannedWide = 64;  // candidates of the index that are scanned
constexpr double kEnough = 0.95;                 // support that needs no look farther away
constexpr int kRedundantPoints = 58;             // 0.9 of 64

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

Place place_in_index(const Sight& sight, const Frustum& frame, const View& view) {
  const float* d = frame.direction();
  return {sight.centroid(frame),
          {d[0], d[1], d[2]},
          -std::ilogb(view.intrinsics.fx * view.intrinsics.fy)};
}

}  // namespace

FrameCache::FrameCache(const Retrieval& retrieval, int64_t capacity)
    : retrieval_((check_retrieval(retrieval, capacity), retrieval)),
      sight_(retrieval.near, retrieval.far),
      capacity_(capacity),
      by_id_(capacity),
      order_(capacity, 1),
      uses_(capacity, 2),
      witnesses_(capacity > kExactFrames ? 0 : capacity),
      frusta_(capacity, Blocks::touched),
      views_(capacity),
      ids_(capacity),
      turns_(capacity) {
  if (capacity > kExactFrames) index_.emplace(retrieval.far, capacity);
  candidates_.reserve(kExactFrames);
}

template <class F>
void FrameCache::each(F f) const {
  for (int32_t s = order_.first(kOrder); s != order_.end(kOrder); s = order_.next(s)) f(s);
}

// ---- planning

Plan FrameCache::peek(const View& query) {
  const FrustumPoints points = points_of(query);
  here_ = frustum(query);
  ask(points);
  if (size_ <= kExactFrames) return choose();
  const Place place = place_in_index(sight_, here_, query);
  ask_index(points, place, PoseIndex::kClose);
  const Plan plan = choose();
  if (plan.support >= kEnough && plan.count == retrieval_.context) return plan;
  ask_index(points, place, PoseIndex::kWide);
  const auto lacking = [&] { return std::ssize(candidates_) < retrieval_.context; };
  for (int32_t s = newest(); lacking(); s = order_.previous(s)) add(s, points);
  return choose();
}

// The frames that are always in a context; all frames, of a small world.
void FrameCache::ask(const FrustumPoints& points) {
  ++question_;
  candidates_.clear();
  int32_t s = order_.first(kOrder);
  for (int64_t i = 0; i < std::min<int64_t>(retrieval_.sinks, size_); ++i, s = order_.next(s))
    add(s, points);
  s = newest();
  for (int64_t i = 0; i < std::min<int64_t>(retrieval_.recent, size_); ++i, s = order_.previous(s))
    add(s, points);
  fixed_ = static_cast<int>(candidates_.size());
  if (size_ > kExactFrames) return;
  for (int32_t slot = 0; slot < static_cast<int32_t>(size_); ++slot)
    if (may_leave(slot)) candidates_.push_back({sight_.seen(frusta_[slot], points), -1, slot, 0});
}

void FrameCache::ask_index(const FrustumPoints& points, const Place& place,
                           PoseIndex::Reach reach) {
  int32_t room[kScannedWide];
  const std::span found(room, reach == PoseIndex::kClose ? kScanned : kScannedWide);
  const int count = index_->find(place, reach, found);
  for (int i = 0; i < count; ++i) __builtin_prefetch(&frusta_[found[i]]);
  for (int i = 0; i < count; ++i) add(found[i], points);
}

void FrameCache::add(int32_t slot, const FrustumPoints& points) {
  size_t at = size_t(slot) % marks_.size();
  while (marks_[at].question == question_ && marks_[at].slot != slot) at = (at + 1) % marks_.size();
  if (marks_[at].question == question_) return;
  marks_[at] = {question_, slot};
  candidates_.push_back({sight_.seen(frusta_[slot], points), -1, slot, 0});
}

Plan FrameCache::choose() {
  for (Candidate& c : candidates_) c.gain = std::popcount(c.mask);
  Plan plan;
  uint64_t left = ~uint64_t{0};
  for (int i = 0; i < fixed_; ++i) take(candidates_[i], plan, left);
  const int count = std::min(retrieval_.context, static_cast<int>(candidates_.size()));
  while (plan.count < count) {
    Candidate* next = most_added(left);
    if (!next) next = nearest_left();
    take(*next, plan, left);
  }
  plan.support = std::popcount(~left) / 64.0;
  return plan;
}

void FrameCache::take(Candidate& candidate, Plan& plan, uint64_t& left) const {
  candidate.gain = -1;
  left &= ~candidate.mask;
  plan.slots[plan.count] = candidate.slot;
  plan.ids[plan.count] = ids_[candidate.slot];
  plan.seen[plan.count] = candidate.mask;
  ++plan.count;
}

float FrameCache::distance(Candidate& candidate) const {
  if (candidate.distance < 0)
    candidate.distance = std::max(0.0f, sight_.distance(frusta_[candidate.slot], here_));
  return candidate.distance;
}

// The frame that adds most, the nearer one of two, then the smaller id; null when none adds
// anything. Gains only shrink, so a frame whose old gain is too small is not counted again.
FrameCache::Candidate* FrameCache::most_added(uint64_t left) {
  Candidate* best = nullptr;
  int most = 1;
  for (Candidate& c : candidates_) {
    if (c.gain < most) continue;
    c.gain = std::popcount(c.mask & left);
    if (c.gain < most) continue;
    const auto key = [&](Candidate& x) { return std::pair(distance(x), ids_[x.slot]); };
    if (!best || c.gain > most || key(c) < key(*best)) best = &c, most = c.gain;
  }
  return best;
}

// The nearest frame not taken, those that see anything of the view before the others.
FrameCache::Candidate* FrameCache::nearest_left() {
  const auto key = [&](Candidate& c) { return std::tuple(c.mask == 0, distance(c), ids_[c.slot]); };
  Candidate* best = nullptr;
  for (Candidate& c : candidates_)
    if (c.gain >= 0 && (!best || key(c) < key(*best))) best = &c;
  return best;
}

Plan FrameCache::plan(const View& query) {
  const Plan plan = peek(query);
  int32_t used[kMaxContext];
  std::copy(plan.slots, plan.slots + plan.count, used);
  std::sort(used, used + plan.count, [&](int32_t a, int32_t b) { return turns_[a] < turns_[b]; });
  for (int i = 0; i < plan.count; ++i) use_slot(used[i]);
  return plan;
}

// ---- remembering

int32_t FrameCache::insert(int64_t id, const View& view) {
  check_intrinsics(view.intrinsics);
  check<WorldError>(by_id_.find(static_cast<uint64_t>(id)) == SlotMap::kNone, "frame ", id,
                    ": expected a new id, got one that is in memory");
  const int32_t slot = size_ < capacity_ ? static_cast<int32_t>(size_) : evict();
  ++size_;
  ids_.write(slot) = id;
  turns_.write(slot) = turn_++;
  by_id_.set(static_cast<uint64_t>(id), slot);
  uses_.append(kShown, slot);
  put(slot, view);
  if (!index_) each([&](int32_t older) { consider(slot, older); });
  order_.append(kOrder, slot);
  return slot;
}

void FrameCache::put(int32_t slot, const View& view) {
  views_.write(slot) = view;
  frusta_.write(slot) = frustum(view);
  if (index_) {
    use_all(index_->insert(slot, place_in_index(sight_, frusta_[slot], view)));
    use_slot(slot);
  } else {
    witnesses_.write(slot).count = 0;
  }
}

void FrameCache::use_slot(int32_t slot) {
  uses_.remove(slot);
  uses_.append(index_ && !index_->shown(slot) ? kHidden : kShown, slot);
}

void FrameCache::use_all(const PoseIndex::Changed& frames) {
  for (const int32_t slot : frames)
    if (slot != SlotMap::kNone) use_slot(slot);
}

// The centroid comes first because it settles most pairs at a tenth of the cost.
bool FrameCache::stands_in(int32_t newer, int32_t older) const {
  const Frustum& frame = frusta_[newer];
  return sight_.sees_centroid(frame, frusta_[older]) &&
         std::popcount(sight_.seen(frame, points_of(views_[older]))) >= kRedundantPoints;
}

// Keeps `newer` as a witness of `older` if it is one and there is room in the list.
void FrameCache::consider(int32_t newer, int32_t older) {
  if (witnesses_[older].count == kWitnesses || !stands_in(newer, older)) return;
  Witnesses& w = witnesses_.write(older);
  w.slots[w.count++] = newer;
}

bool FrameCache::may_leave(int32_t slot) const {
  return turns_[slot] >= retrieval_.sinks && turns_[slot] < turn_ - retrieval_.recent;
}

// The first frame in the order of use that is redundant and may leave, else that may leave.
int32_t FrameCache::victim() const {
  int32_t first = -1;
  for (const int list : {kHidden, kShown})
    for (int32_t s = uses_.first(list); s != uses_.end(list); s = uses_.next(s)) {
      if (!may_leave(s)) continue;
      if (index_ || witnesses_[s].count == kWitnesses) return s;
      if (first < 0) first = s;
    }
  return first;
}

int32_t FrameCache::evict() {
  const int32_t slot = victim();
  order_.remove(slot);
  uses_.remove(slot);
  by_id_.erase(static_cast<uint64_t>(ids_[slot]));
  forget_view(slot);
  --size_;
  ++evicted_;
  return slot;
}

// Before the slot gets another view or none.
void FrameCache::forget_view(int32_t slot) {
  if (index_) return use_all(index_->erase(slot));
  each([&](int32_t s) {
    Witnesses& w = witnesses_.write(s);
    w.count = static_cast<int32_t>(std::remove(w.slots, w.slots + w.count, slot) - w.slots);
  });
}

void FrameCache::update_view(int64_t id, const View& view) {
  check_intrinsics(view.intrinsics);
  const int32_t slot = slot_of(id);
  forget_view(slot);
  put(slot, view);
  if (index_) return;
  each([&](int32_t s) {
    if (turns_[s] < turns_[slot]) consider(slot, s);
    if (turns_[s] > turns_[slot]) consider(s, slot);
  });
}

// ---- questions

std::vector<int64_t> FrameCache::nearest(const Pose& pose, int k) const {
  check<ArgumentError>(k >= 0, "nearest: expected k >= 0, got ", k);
  const Frustum here = frustum({pose, {0.5, 0.5}});  // distance does not look at the focal lengths
  std::vector<std::pair<float, int64_t>> found;
  each([&](int32_t s) { found.emplace_back(sight_.distance(frusta_[s], here), ids_[s]); });
  std::sort(found.begin(), found.end());
  std::vector<int64_t> result;
  for (int64_t i = 0; i < std::min<int64_t>(k, size_); ++i) result.push_back(found[i].second);
  return result;
}

double FrameCache::coverage(const View& query) const {
  const FrustumPoints points = points_of(query);
  uint64_t mask = 0;
  each([&](int32_t s) { mask |= sight_.seen(frusta_[s], points); });
  return std::popcount(mask) / 64.0;
}

double FrameCache::coverage(const View& query, std::span<const int32_t> slots) const {
  const FrustumPoints points = points_of(query);
  uint64_t mask = 0;
  for (const int32_t slot : slots) mask |= sight_.seen(frusta_[slot], points);
  return std::popcount(mask) / 64.0;
}

std::vector<int64_t> FrameCache::ids() const {
  std::vector<int64_t> result;
  each([&](int32_t s) { result.push_back(ids_[s]); });
  return result;
}

void FrameCache::settle() {
  const std::vector<int64_t> by_use = ids_by_use();
  if (index_) {
    index_.emplace(retrieval_.far, capacity_);
    each([&](int32_t s) { index_->insert(s, place_in_index(sight_, frusta_[s], views_[s])); });
  } else {
    each([&](int32_t s) { witnesses_.write(s).count = 0; });
    each([&](int32_t newer) {
      each([&](int32_t older) {
        if (turns_[older] < turns_[newer]) consider(newer, older);
      });
    });
  }
  for (const int64_t id : by_use) use(id);
}

std::vector<int64_t> FrameCache::ids_by_use() const {
  std::vector<int64_t> result;
  for (const int list : {kHidden, kShown})
    for (int32_t s = uses_.first(list); s != uses_.end(list); s = uses_.next(s))
      result.push_back(ids_[s]);
  return result;
}

int32_t FrameCache::slot_of(int64_t id) const {
  const int32_t slot = by_id_.find(static_cast<uint64_t>(id));
  check<WorldError>(slot != SlotMap::kNone, "frame ", id,
                    ": expected an id in memory, got one that is not; ",
                    "it was never committed or has been evicted");
  return slot;
}

}  // namespace rtfm
