// SPDX-License-Identifier: Apache-2.0
#include "src/session.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <span>

#include "csrc/os/os.h"
#include "src/check.h"
#include "src/sequence.h"

namespace rtfm {
namespace {

constexpr int64_t kDefaultBudget = int64_t{512} << 20;
static_assert(kMaxContext <= kMaxPages);

void check_deadline(std::optional<double> deadline) {
  check<ArgumentError>(!deadline || (std::isfinite(*deadline) && *deadline > 0),
                       "deadline: expected a finite number of seconds above 0, or None, got ",
                       deadline.value_or(0));
}

std::string keys(const std::map<int, std::vector<SamplerRow>>& samplers) {
  std::string names;
  for (const auto& [steps, table] : samplers)
    names += (names.empty() ? "" : ", ") + std::to_string(steps);
  return names;
}

SessionOptions complete(SessionOptions o, const Manifest& m, int64_t page_bytes) {
  check<ArgumentError>(!o.threads || (*o.threads >= 1 && *o.threads <= 256),
                       "threads: expected 1 to 256, or None for one per CPU, got ",
                       o.threads.value_or(0));
  if (m.by_actions()) {  // the window is the model's own
    check<ArgumentError>(
        !o.context && !o.sinks && !o.recent && !o.commit_below,
        "context, sinks, recent, commit_below: expected none for a model that goes "
        "by actions, whose frames attend to the frames before them");
    o.context = window_size(m.sequence);
    o.recent = std::min(m.sequence.recent, *o.context), o.sinks = 0, o.commit_below = 2;
  }
  o.context = o.context.value_or(m.retrieval.context);
  o.sinks = o.sinks.value_or(std::min(m.retrieval.sinks, *o.context));
  o.recent = o.recent.value_or(std::max(0, std::min(m.retrieval.recent, *o.context - *o.sinks)));
  o.steps = o.steps.value_or(m.steps);
  o.commit_below = o.commit_below.value_or(m.retrieval.commit_below);
  const int64_t window = (*o.context + 1) * (page_bytes + m.image_bytes());
  o.memory_budget = o.memory_budget.value_or(std::max(kDefaultBudget, window / 3 * 4));
  check<ArgumentError>(*o.context >= 1 && *o.context <= kMaxContext, "context: expected 1 to ",
                       kMaxContext, " frames, got ", *o.context);
  check<ArgumentError>(*o.sinks >= 0 && *o.recent >= 0 && *o.sinks + *o.recent <= *o.context,
                       "sinks, recent: expected at least 0 and at most context = ", *o.context,
                       " together, got ", *o.sinks, " and ", *o.recent);
  check<ArgumentError>(m.samplers.contains(*o.steps), "steps: expected one of ", keys(m.samplers),
                       " (the model's sampler tables), got ", *o.steps);
  check<ArgumentError>(
      *o.commit_below >= 0 && *o.commit_below <= 2,
      "commit_below: expected a share of the view from 0 (never commit) to above 1 ",
      "(always), got ", *o.commit_below);
  check_deadline(o.deadline);
  return o;
}

Retrieval retrieval(const SessionOptions& o, const Manifest& m) {
  return {.context = *o.context,
          .sinks = *o.sinks,
          .recent = *o.recent,
          .near = m.retrieval.near,
          .far = m.retrieval.far};
}

Memory reserve(const Model& model, const SessionOptions& o) {
  const Manifest& m = model.manifest();
  try {
    const Network& network = model.network();
    const Backend& backend = *model.backend();
    return Memory(model.backend(), retrieval(o, m), network.page_bytes(backend),
                  network.state_bytes(backend), m.image_bytes(), *o.memory_budget);
  } catch (const std::bad_alloc&) {
    fail<ArgumentError>("memory_budget: expected bytes that the system has room for, got ",
                        *o.memory_budget, "; give fewer");
  }
}

}  // namespace

Session::Busy::Busy(Session& session) : session_(session) {
  const int64_t process = os::process();
  int64_t holder = 0;
  const bool free =
      session.busy_.compare_exchange_strong(holder, process, std::memory_order_acquire);
  check<WorldError>(holder != kLost,
                    "session: expected a whole one, got one whose memory or device gave out in the "
                    "middle of a change; go on from a branch or a saved world");
  check<WorldError>(free || holder == process,
                    "session: expected one at rest when its process was forked, got one in the "
                    "middle of a call, which nobody ends here; fork between calls");
  check<WorldError>(free,
                    "session: expected one thread at a time, got a call while another is running; ",
                    "wait for it, or give each thread its own session (they can share a model)");
}

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options)
    : model_(std::move(model)),
      options_(
          complete(options, model_->manifest(), model_->network().page_bytes(*model_->backend()))),
      engines_(std::make_shared<Engines>(model_, *options_.context, options_.threads.value_or(0))),
      engine_(engines_->take()),
      memory_(reserve(*model_, options_)) {
  check<ArgumentError>(!options_.stream || model_->backend()->ordinal() >= 0,
                       "stream: expected none where frames are made on a CPU, on ", device(),
                       "; use device='cuda'");
  if (options_.stream) engine_->follow(*options_.stream);  // refuses one that is none
  for (size_t i = 0; i < kPooledFrames; ++i) pool_.push_back(make_pixels());
  latencies_.reserve(kWindow);
}

Session::Session(const Session& parent)
    : model_(parent.model_),
      options_(parent.options_),
      engines_(parent.engines_),
      memory_(parent.memory_),
      next_id_(parent.next_id_),
      last_pose_(parent.last_pose_),
      origin_(parent.origin_),
      step_cost_(parent.step_cost_),
      fixed_cost_(parent.fixed_cost_) {
  latencies_.reserve(kWindow);
}

Session::~Session() {
  if (engine_) engines_->give(std::move(engine_));
}

std::unique_ptr<Session> Session::fork() {
  const Busy busy(*this);
  if (engine_) engine_->finish();  // of pages that the branch is going to read
  return std::unique_ptr<Session>(new Session(*this));
}

Engine& Session::engine() {
  if (!engine_) engine_ = engines_->take();
  return *engine_;
}

Intrinsics Session::default_intrinsics() const {
  return {model_->manifest().fx, model_->manifest().fy};
}

// Refuses a pose where the model goes by actions, and the reverse.
void Session::check_target(const Target& target, const char* call) const {
  const Manifest& m = model_->manifest();
  check_intrinsics(target.view.intrinsics);
  check<ArgumentError>(target.actions.empty() != m.by_actions(), call, ": expected ",
                       m.by_actions() ? "actions" : "a pose", " for ", m.name,
                       ", a model that goes by ", m.by_actions() ? "actions" : "poses", ", got ",
                       m.by_actions() ? "a pose" : "actions");
  check<ArgumentError>(target.actions.size() == m.actions.size(), call, ": expected ",
                       m.actions.size(), " actions, got ", target.actions.size());
  for (size_t i = 0; i < m.actions.size(); ++i)
    check<ArgumentError>(
        target.actions[i] >= m.actions[i].min && target.actions[i] <= m.actions[i].max, call,
        ": action ", m.actions[i].name, ": expected ", m.actions[i].min, " to ", m.actions[i].max,
        ", got ", target.actions[i]);
}

void Session::check_begun() const {
  check<WorldError>(memory_.frames().size() > 0,
                    "step: expected a world with at least one frame, got an empty one; call "
                    "observe first");
}

Session::Target Session::target(std::span<const float> actions) const {
  constexpr Pose kStart{{1, 0, 0, 0, 1, 0, 0, 0, 1}, {}};
  const std::vector<Action>& known = model_->manifest().actions;
  const Pose from = last_pose_.value_or(kStart);
  const bool fits = actions.size() == known.size();  // check_target refuses what does not
  return {{fits && last_pose_ ? reckon(from, known, actions) : from, default_intrinsics()},
          actions};
}

int64_t Session::observe_next(const uint8_t* image, std::span<const float> actions,
                              const std::optional<Pose>& pose) {
  const Busy busy(*this);
  Target next = target(actions);
  if (pose) next.view.pose = *pose;
  return observe_target(image, next);
}

Frame Session::act(std::span<const float> actions, std::optional<double> deadline, uint8_t* out) {
  const Busy busy(*this);
  return step_to(target(actions), deadline, out);
}

Frame Session::imagine_act(std::span<const float> actions) {
  const Busy busy(*this);
  return imagine_target(target(actions));
}

int64_t Session::observe_target(const uint8_t* image, const Target& target) {
  check_target(target, "observe");
  const Manifest& m = model_->manifest();
  Frame frame{.pixels = borrow_pixels(), .images = m.images};
  for (int64_t i = 0; i < m.images; ++i)
    std::copy_n(image, m.image_bytes(), frame.pixels->fill() + i * m.image_bytes());
  engine();
  return change([&] {
    commit(target, m.by_actions() ? window(target.view, false) : Context{}, frame);
    if (m.by_actions()) last_pose_ = target.view.pose;
    return next_id_++;
  });
}

Frame Session::step_to(Target target, std::optional<double> deadline, uint8_t* out) {
  const Clock::time_point start = Clock::now();
  check_target(target, "step");
  check_deadline(deadline);
  check_begun();
  if (!deadline) deadline = options_.deadline;
  engine();  // what a branch may lack comes before the world changes
  std::shared_ptr<Pixels> pixels = borrow_pixels();

  const Context context =
      change([&] { return target.latest ? recall_latest(target) : recall(target.view, false); });
  Frame frame = generate(target, context, affordable_steps(deadline), std::move(pixels));
  if (out) std::copy_n(frame.image(), model_->manifest().image_bytes(), out);
  frame.committed = context.remembered < *options_.commit_below;
  change([&] {
    if (frame.committed) commit(target, context, frame);
    if (context.complete && !frame.committed) prefetch(target.view);
  });
  last_pose_ = target.view.pose;
  ++next_id_;

  frame.latency = seconds_since(start);
  frame.late = deadline && frame.latency > *deadline;
  record(frame);
  return frame;
}

Frame Session::imagine_target(const Target& target) {
  const Clock::time_point start = Clock::now();
  check_target(target, "imagine");
  check_begun();
  Frame frame = generate(target, recall(target.view, true), steps(), borrow_pixels());
  frame.latency = seconds_since(start);
  return frame;
}

void Session::update_poses(const std::vector<int64_t>& ids, const std::vector<Pose>& poses) {
  const Busy busy(*this);
  check<ArgumentError>(ids.size() == poses.size(), "update_pose: expected as many poses as ids, ",
                       ids.size(), ", got ", poses.size());
  FrameCache& frames = memory_.frames();
  for (const int64_t id : ids) frames.slot_of(id);  // refuses before the first one moves
  change([&] {
    for (size_t i = 0; i < ids.size(); ++i) {
      frames.update_view(ids[i], {poses[i], frames.view_of(ids[i]).intrinsics});
      if (model_->manifest().posed_pages) memory_.drop_page(frames.slot_of(ids[i]));
    }
  });
}

std::shared_ptr<Pixels> Session::make_pixels() const {
  const int64_t bytes = model_->manifest().frame_bytes();
  return options_.stream ? std::make_shared<Pixels>(model_->backend(), bytes, *options_.stream)
                         : std::make_shared<Pixels>(bytes);
}

std::shared_ptr<Pixels> Session::borrow_pixels() {
  for (const std::shared_ptr<Pixels>& pixels : pool_)
    if (pixels.use_count() == 1) {
      std::atomic_thread_fence(std::memory_order_acquire);  // after the release of the last holder
      return pixels;
    }
  std::shared_ptr<Pixels> pixels = make_pixels();
  if (pool_.size() < kPooledFrames) pool_.push_back(pixels);
  return pixels;
}

// The most denoising steps, of the tables up to steps(), that the deadline should have room for.
int Session::affordable_steps(std::optional<double> deadline) const {
  const auto& samplers = model_->manifest().samplers;
  if (!deadline) return steps();
  const double step = step_cost_.expected(), fixed = fixed_cost_.expected();
  int affordable = samplers.begin()->first;
  for (const auto& [count, table] : samplers)
    if (count <= steps() && fixed + count * step <= *deadline) affordable = count;
  return std::min(affordable, steps());
}

void Session::record(const Frame& frame) {
  step_cost_.add(denoising_ / frame.steps);
  fixed_cost_.add(frame.latency - denoising_);
  const std::lock_guard lock(stats_mutex_);
  const size_t at = size_t(totals_.frames % kWindow);
  if (at < latencies_.size())
    latencies_[at] = float(frame.latency);
  else
    latencies_.push_back(float(frame.latency));
  ++totals_.frames;
  totals_.late += frame.late;
  totals_.committed += frame.committed;
}

Stats Session::stats() const {
  std::unique_lock lock(stats_mutex_);
  Stats stats = totals_;
  std::vector<float> sorted = latencies_;
  lock.unlock();
  if (sorted.empty()) return stats;
  std::sort(sorted.begin(), sorted.end());
  const auto at = [&](double q) { return double(sorted[size_t(q * double(sorted.size() - 1))]); };
  stats.p50 = at(0.50), stats.p95 = at(0.95), stats.p99 = at(0.99), stats.worst = at(1.0);
  return stats;
}

}  // namespace rtfm
