// SPDX-License-Identifier: Apache-2.0
// The spatial memory: which frames a session keeps, where they were seen from, and which few of
// them matter for a new view (context juggling). Host only; it hands out page slots and never
// touches them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/blocks.h"
#include "src/frustum.h"
#include "src/pose.h"
#include "src/pose_index.h"
#include "src/slot_lists.h"
#include "src/slot_map.h"

namespace rtfm {

constexpr int kMaxContext = 32;
constexpr int64_t kExactFrames = 512;  // more than these are asked through an index

struct Retrieval {    // the model's defaults come from its manifest
  int context = 4;    // pages a new frame attends to, 1..kMaxContext
  int sinks = 1;      // of these, the world's first frames
  int recent = 1;     // ... and the latest ones; greedy coverage fills the rest
  double near = 0.3;  // frustum that counts as seen, metres
  double far = 10.0;
};

struct Plan {  // the context of one frame: sinks, the latest (newest first), then as chosen
  int count = 0;
  int32_t slots[kMaxContext];  // page slots
  int64_t ids[kMaxContext];    // frame ids
  uint64_t seen[kMaxContext];  // of the 64 points of the query frustum, those each has seen
  double support = 0;          // share of the query frustum that these frames have seen, 0..1
};

// Fixed capacity: all memory is taken at construction. Deterministic. One thread at a time. A copy
// takes a few microseconds at any size and shares memory until one of the two changes it.
//
// Up to kExactFrames, a plan scans every frame exactly: 64 points of the query frustum against each
// remembered frustum. A larger world is asked through a PoseIndex: of its candidates, the 48
// nearest are scanned in the same way, and 64 from farther away when the first leave more than 5 %
// of the view unseen. The rest of a context that they cannot fill is the newest frames.
//
// Eviction, when full: never a sink (the first frames), never one of the `recent` newest. Redundant
// frames first, then all; among them the least recently planned, then the oldest.
// With a capacity of at most kExactFrames a frame is redundant while three newer frames each see
// the centroid and 0.9 of the 64 points of its own frustum: a list of three that insert() keeps,
// exact for the frames it names. A frame with fewer in its list may still be covered by frames
// passed over while the list was full. With a larger capacity a frame is redundant while the index
// hides it behind newer ones of the same place and direction; a frame counts as used when that
// changes. So the last view of a place and direction goes only when no copy of any is left.
class FrameCache {
 public:
  // Throws ArgumentError unless capacity > sinks + recent and the retrieval makes sense.
  FrameCache(const Retrieval& retrieval, int64_t capacity);

  // Chooses the context for a view: min(size, context) different frames. O(1), no allocation.
  Plan plan(const View& query);
  Plan peek(const View& query);  // the same, without counting as a use: looking ahead

  // Makes room if full and returns the page slot for the new frame, which the caller fills.
  // O(1), no allocation. Throws WorldError, with nothing changed, if the id is known.
  int32_t insert(int64_t id, const View& view);

  // A map correction: the frame was seen from elsewhere. Throws WorldError for an unknown id.
  void update_view(int64_t id, const View& view);

  // Exact at any size: O(size).
  std::vector<int64_t> nearest(const Pose& pose, int k) const;  // ids, nearest first
  double coverage(const View& query) const;  // share of the view seen by all frames together, 0..1
  double coverage(const View& query, std::span<const int32_t> slots) const;  // ... by these

  int64_t size() const { return size_; }
  int64_t capacity() const { return capacity_; }
  int64_t evicted() const { return evicted_; }
  std::vector<int64_t> ids() const;  // in order of insertion
  // For saving a world. settle() drops what moved and forgotten frames have left behind in the
  // order of the index: the cache is then as if its frames had been inserted one by one. O(size).
  // ids_by_use: all ids in their order of eviction, for use() to repeat it.
  void settle();
  std::vector<int64_t> ids_by_use() const;
  void use(int64_t id) { use_slot(slot_of(id)); }  // throws WorldError, unknown id
  const View& view(int32_t slot) const { return views_[slot]; }
  int64_t id(int32_t slot) const { return ids_[slot]; }
  int32_t slot_of(int64_t id) const;  // throws WorldError, unknown id
  int32_t find(int64_t id) const { return by_id_.find(uint64_t(id)); }  // its slot, or -1
  View view_of(int64_t id) const { return views_[slot_of(id)]; }        // the same

 private:
  static constexpr int kWitnesses = 3;
  struct Witnesses {  // newer frames that see what this one sees
    int32_t slots[kWitnesses];
    int32_t count;
  };
  struct Candidate {
    uint64_t mask;   // points of the query that it sees
    float distance;  // from the query; -1: not needed so far
    int32_t slot;
    int gain;  // an upper bound of what it still adds; -1: taken
  };
  struct Mark {
    uint32_t question;
    int32_t slot;
  };
  enum List { kOrder = 0, kShown = 0, kHidden = 1 };  // of order_; of uses_

  int32_t newest() const { return order_.previous(order_.end(kOrder)); }
  template <class F>
  void each(F f) const;  // f(slot), in order of insertion

  void ask(const FrustumPoints& points);
  void ask_index(const FrustumPoints& points, const Place& place, PoseIndex::Reach reach);
  void add(int32_t slot, const FrustumPoints& points);
  Plan choose();
  void take(Candidate& candidate, Plan& plan, uint64_t& left) const;
  float distance(Candidate& candidate) const;
  Candidate* most_added(uint64_t left);
  Candidate* nearest_left();

  void put(int32_t slot, const View& view);
  void use_slot(int32_t slot);
  void use_all(const PoseIndex::Changed& frames);
  bool stands_in(int32_t newer, int32_t older) const;
  void consider(int32_t newer, int32_t older);
  bool may_leave(int32_t slot) const;  // neither sink nor recent
  int32_t victim() const;
  int32_t evict();  // the slot it frees
  void forget_view(int32_t slot);

  Retrieval retrieval_;
  Sight sight_;
  int64_t capacity_, size_ = 0, evicted_ = 0;
  int64_t turn_ = 0;  // frames inserted so far
  Frustum here_{};    // the query of the present question
  uint32_t question_ = 0;
  std::array<Mark, 512> marks_{};      // ... some of its candidates, by a hash of their slots
  std::vector<Candidate> candidates_;  // ... in order: sinks, recent, others
  int fixed_ = 0;                      // ... how many of them are in every context

  SlotMap by_id_;
  SlotLists order_;                 // of insertion
  SlotLists uses_;                  // least recent first; the frames that the index hides apart
  std::optional<PoseIndex> index_;  // with a capacity above kExactFrames, else:
  CowArray<Witnesses> witnesses_;   // by slot, as all below; the slots in use are 0..size-1
  CowArray<Frustum> frusta_;
  CowArray<View> views_;
  CowArray<int64_t> ids_;
  CowArray<int64_t> turns_;  // turn_ when inserted
};

}  // namespace rtfm
