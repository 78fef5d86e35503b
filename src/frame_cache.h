// SPDX-License-Identifier: Apache-2.0
// The spatial memory: which frames a session keeps, where they were seen from, and which few of
// them matter for a new view (context juggling). Host only; it hands out page slots and never
// touches them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "src/pose.h"

namespace rtfm {

constexpr int kMaxContext = 32;

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
};

// 64 points of a frustum: 16 directions in the world, at depth 1, at four depths each.
struct FrustumPoints {
  Triple<Lanes> directions[4];
  Triple<Lanes> corners;  // of the grid of directions
  double origin[3];
};

// Fixed capacity: all memory is taken at construction. Deterministic. One thread at a time.
// Scans every frame exactly: 64 points of the query frustum against each remembered frustum.
//
// Eviction, when full: never a sink (the first frames), never one of the `recent` newest. Redundant
// frames first, then all; among them the least recently planned, then the oldest. A frame is
// redundant while three newer frames each see the centroid and 0.9 of the 64 points of its own
// frustum: a list of three that insert() keeps, exact for the frames it names. A frame with fewer
// in its list may still be covered by frames passed over while the list was full.
class FrameCache {
 public:
  // Throws ArgumentError unless capacity > sinks + recent and the retrieval makes sense.
  FrameCache(const Retrieval& retrieval, int64_t capacity);

  // Chooses the context for a view: min(size, context) different frames. O(size), no allocation.
  Plan plan(const View& query);
  Plan peek(const View& query);  // the same, without counting as a use: looking ahead

  // Makes room if full and returns the page slot for the new frame, which the caller fills.
  // O(capacity), no allocation. Throws WorldError, with nothing changed, if the id is known.
  int32_t insert(int64_t id, const View& view);

  // A map correction: the frame was seen from elsewhere. Throws WorldError for an unknown id.
  void update_view(int64_t id, const View& view);
  std::vector<int64_t> nearest(const Pose& pose, int k) const;  // ids, nearest first
  double coverage(const View& query) const;  // share of the view seen by all frames together, 0..1

  int64_t size() const { return static_cast<int64_t>(order_.size()); }
  int64_t capacity() const { return static_cast<int64_t>(frusta_.size()); }
  int64_t evicted() const { return evicted_; }
  std::vector<int64_t> ids() const;  // in order of insertion
  // For saving a world: all ids, the least recently used first; and using one again in that order.
  std::vector<int64_t> ids_by_use() const;
  void use(int64_t id);  // throws WorldError, unknown id
  const View& view(int32_t slot) const { return views_[slot]; }
  int64_t id(int32_t slot) const { return ids_[slot]; }
  int32_t slot_of(int64_t id) const;                              // throws WorldError, unknown id
  View view_of(int64_t id) const { return views_[slot_of(id)]; }  // the same

 private:
  static constexpr int kWitnesses = 3;
  struct Witnesses {  // newer frames that see what this one sees
    int32_t slots[kWitnesses];
    int32_t count;
  };

  uint64_t seen(const Frustum& frame, const FrustumPoints& points) const;  // one bit per point
  float proxy(const Frustum& a, const Frustum& b) const;                   // distance of two frusta
  bool stands_in(int32_t newer, int32_t older) const;

  int32_t find(int64_t id) const;  // slot, or -1
  void put(int32_t slot, const View& view);
  int32_t evict();  // the slot it frees
  void consider(int32_t newer, int32_t older);
  void forget_witness(int32_t slot);
  void scan(const View& query);
  void take(int32_t slot, Plan& plan, uint64_t& left);
  int32_t most_added(uint64_t left);
  int32_t nearest_left() const;

  Retrieval retrieval_;
  std::array<float, 4> depths_;  // middles of four strata of equal volume
  float near_, far_;             // what counts as seen: near_ < z < far_
  float centroid_;               // depth of the frustum's centroid
  int64_t clock_ = 0;            // counts plans and inserts
  int64_t evicted_ = 0;

  std::vector<int32_t> order_;   // slots in order of insertion; occupied slots are 0..size-1
  std::vector<Frustum> frusta_;  // this and all below: by slot, [capacity]
  std::vector<View> views_;
  std::vector<int64_t> ids_;
  std::vector<int64_t> used_;  // clock_ when last planned
  std::vector<Witnesses> witnesses_;
  std::vector<uint64_t> masks_;  // scratch of peek: points of the query each frame sees
  std::vector<float> proxies_;   // ... its distance from the query
  std::vector<int8_t> gains_;    // ... an upper bound of what it still adds; -1: taken
};

}  // namespace rtfm
