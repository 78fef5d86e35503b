// SPDX-License-Identifier: Apache-2.0
// The runtime in one class: give it a pose, get the frame seen from there.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/check.h"  // the errors that it throws
#include "src/engine.h"
#include "src/frame.h"
#include "src/memory.h"
#include "src/model.h"
#include "src/pose_slot.h"
#include "src/recent_costs.h"

namespace rtfm {

struct SessionOptions {  // what is not set comes from the model's manifest
  uint64_t seed = 0;
  std::optional<int> threads;  // one per CPU
  std::optional<int> context, sinks, recent, steps;
  std::optional<int64_t> memory_budget;  // bytes of pixels and pages; 512 MiB
  std::optional<double> commit_below;    // commit generated frames with less support; 0: never
  std::optional<double> deadline;        // seconds for a step; none
  // A cudaStream_t of the caller's: frames stay on the GPU. Their memory is used again when they
  // are dropped, after what this stream was given by then.
  std::optional<uint64_t> stream;
};

// A world as it is written down: with the images of its frames, all that later frames depend on.
struct World {
  int64_t next_id = 0;
  std::optional<Pose> last_pose;
  std::optional<Pose> origin;      // of models whose pages depend on where a frame was seen from
  std::vector<int64_t> ids;        // of the remembered frames, in order of insertion
  std::vector<View> views;         // theirs
  std::vector<int64_t> by_use;     // the same ids, in the order of being forgotten
  std::vector<int64_t> with_page;  // ids whose pages are at hand, the least recently used first

  // Of models that go by actions, whose pages no picture brings back:
  std::string page_dtype;                         // of what is written down of them
  std::vector<std::span<const std::byte>> pages;  // to be restored, in the order of with_page
};

struct Stats {
  int64_t frames = 0, late = 0, committed = 0;
  double p50 = 0, p95 = 0, p99 = 0, worst = 0;  // seconds, of the last kWindow steps
};

// All state of one walk through one world. One thread at a time: a second one gets a WorldError.
// Everything is allocated at construction; step() allocates nothing while finished frames are
// dropped or written to `out`, unless it shares its world with a branch and takes what it changes
// for its own. A call that throws leaves the session as it was. Only where memory or the device
// gives out while the world changes, all later calls throw a WorldError; branches go on.
class Session {
 public:
  // Throws ArgumentError for options out of range, DeviceError as make_backend does.
  Session(std::shared_ptr<const Model> model, const SessionOptions& options);
  ~Session();

  // A real frame enters the world. image: [height, width, 3] RGB. Returns its id.
  int64_t observe(const uint8_t* image, const View& view) {
    const Busy busy(*this);
    return observe_target(image, {view, {}});
  }

  // The frame seen from `view`, written to `out` [height, width, 3] if given. Commits it when the
  // context supports less of it than commit_below. Throws WorldError in an empty world.
  Frame step(const View& view, std::optional<double> deadline = {}, uint8_t* out = nullptr) {
    const Busy busy(*this);
    return step_to({view, {}}, deadline, out);
  }

  // The same for the pose that was written last when the frame is launched: when the device is done
  // with earlier frames and pages are at hand. The frame says which one it was.
  Frame step(const PoseSlot& slot, const Intrinsics& intrinsics,
             std::optional<double> deadline = {}, uint8_t* out = nullptr) {
    const Busy busy(*this);
    return step_to({{slot.read(), intrinsics}, {}, &slot}, deadline, out);
  }

  // The frame that step(view) would return now; nothing is committed and nothing changes.
  Frame imagine(const View& view) {
    const Busy busy(*this);
    return imagine_target({view, {}});
  }

  // The same for models that go by actions: one value for each action of the manifest. The camera's
  // pose follows by dead reckoning. An observed frame is where the camera is, unless told
  // otherwise.
  int64_t observe_next(const uint8_t* image, std::span<const float> actions,
                       const std::optional<Pose>& pose);
  Frame act(std::span<const float> actions, std::optional<double> deadline = {},
            uint8_t* out = nullptr);
  Frame imagine_act(std::span<const float> actions);

  // A branch of the world in O(1): from here on, each of the two goes its own way, and the same
  // calls give both the same frames. They share memory until one changes it, and copy no page ever;
  // in the first steps after it both allocate. Another thread may use the branch.
  std::unique_ptr<Session> fork();

  // A map correction: frames move, nothing is encoded again. All or none; WorldError, unknown id.
  void update_poses(const std::vector<int64_t>& ids, const std::vector<Pose>& poses);

  const Model& model() const { return *model_; }
  std::shared_ptr<const Model> shared_model() const { return model_; }
  World world();  // without the bytes of pages
  // What is written down of the page of a frame that has one, and after that of the newest frame
  // the state that it left. Models that go by actions only.
  std::vector<std::byte> saved_page(int64_t id);
  // Takes over a saved world; images [ids, height, width, 3]. The next frames are those that the
  // session it came from would have made, to the bit on the same device. Throws WorldError, with
  // nothing changed, if this session has a world already or the saved one does not fit.
  void restore(const World& world, const uint8_t* images);

  // f(const Memory&), while no other thread changes it.
  template <class F>
  auto with_memory(F&& f) {
    const Busy busy(*this);
    return f(std::as_const(memory_));
  }
  const SessionOptions& options() const { return options_; }
  Intrinsics default_intrinsics() const;
  std::string device() const { return model_->device(); }
  int threads() const { return engines_->threads(); }
  int steps() const { return *options_.steps; }
  Stats stats() const;  // from any thread

 private:
  struct Target;
  struct Context;
  Session(const Session& parent);

  class Busy {  // holds the session for one thread; throws WorldError if another has it, if lost
   public:
    explicit Busy(Session& session);
    ~Busy() { session_.busy_.store(session_.lost_ ? kLost : 0, std::memory_order_release); }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;

   private:
    Session& session_;
  };
  static constexpr int64_t kLost = -1;
  static constexpr int kWindow = 1024;
  static constexpr size_t kPooledFrames = 8;

  using Clock = std::chrono::steady_clock;
  static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  struct Target {  // the frame that is wanted
    View view;
    std::span<const float> actions;
    const PoseSlot* latest = nullptr;  // where the view's pose comes from, if it may still change
  };
  struct Context {  // what one frame attends to
    int count = 0;
    int64_t ids[kMaxContext];
    int32_t slots[kMaxContext];
    ContextPage pages[kMaxContext];
    double support = 0;     // share of the view that these have seen
    double remembered = 0;  // ... that they would have with every page at hand
    bool complete = true;   // every page was at hand
  };
  Engine& engine();
  // f(), which changes the world: what it throws leaves a part of the change behind.
  template <class F>
  auto change(const F& f) {
    try {
      return f();
    } catch (...) {
      lost_ = true;
      throw;
    }
  }
  // Of calls that hold the session:
  int64_t observe_target(const uint8_t* image, const Target& target);
  Frame step_to(Target target, std::optional<double> deadline, uint8_t* out);
  Frame imagine_target(const Target& target);
  Target target(std::span<const float> actions) const;
  void check_target(const Target& target, const char* call) const;
  void check_begun() const;
  Shot shot(const Target& target, const Context& context) const;
  Camera camera(const View& view) const;
  Frame generate(const Target& target, const Context& context, int steps,
                 std::shared_ptr<Pixels> pixels);
  void commit(const Target& target, const Context& context, const Frame& frame);

  Context recall(const View& view, bool dreaming);
  Context recall(const Plan& plan, int missed, const View& view, bool dreaming);
  Context recall_latest(Target& target);
  void aim(Target& target);
  Context window(const View& view, bool dreaming);
  Context seen(const View& view, bool dreaming);
  void renew(Context& context);
  PagePart saved_part() const;
  int64_t state_bytes() const;
  void check_pages(const World& world) const;
  void restore_pages(const World& world);
  int most_missed(const Plan& plan) const;
  bool fetch_missed(const View& view);
  void prefetch(const View& view);
  const std::byte* encode(int32_t slot, std::byte* page);
  const std::byte* make_page(int32_t slot, std::span<const int32_t> keep);
  std::shared_ptr<Pixels> make_pixels() const;
  std::shared_ptr<Pixels> borrow_pixels();
  int affordable_steps(std::optional<double> deadline) const;
  void record(const Frame& frame);

  std::shared_ptr<const Model> model_;
  SessionOptions options_;            // every optional but deadline is set
  std::shared_ptr<Engines> engines_;  // of this session and its branches
  std::unique_ptr<Engine> engine_;    // null until a branch needs it
  Memory memory_;
  int64_t next_id_ = 0;
  std::optional<Pose> last_pose_;  // of the last step, to look ahead from; of the last frame, to
                                   // reckon from
  std::optional<Pose> origin_;     // of the first frame, for models with posed pages

  std::vector<std::shared_ptr<Pixels>> pool_;  // reused when nobody else holds them
  std::atomic<int64_t> busy_{0};  // the process of whoever holds the session, 0: nobody, or kLost
  bool lost_ = false;             // of whoever holds it
  double denoising_ = 0;          // seconds from the last plan to its frame
  RecentCosts step_cost_, fixed_cost_;
  mutable std::mutex stats_mutex_;  // of the two below
  Stats totals_;
  std::vector<float> latencies_;  // ring of kWindow
};

}  // namespace rtfm
