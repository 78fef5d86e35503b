// SPDX-License-Identifier: Apache-2.0
#include "src/session.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <span>

#include "src/check.h"

namespace rtfm {
namespace {

constexpr int64_t kDefaultBudget = int64_t{512} << 20;
static_assert(kMaxContext <= kMaxPages);

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// A maximum that forgets: what a step should be expected to cost.
void observe_cost(double& cost, double seconds) {
  cost = std::max(seconds, 0.99 * cost + 0.01 * seconds);
}

void check_deadline(std::optional<double> deadline) {
  check<ArgumentError>(!deadline || (std::isfinite(*deadline) && *deadline > 0),
                       "deadline: expected seconds above 0, got ", deadline.value_or(0));
}

std::string keys(const std::map<int, std::vector<SamplerRow>>& samplers) {
  std::string names;
  for (const auto& [steps, table] : samplers)
    names += (names.empty() ? "" : ", ") + std::to_string(steps);
  return names;
}

SessionOptions complete(SessionOptions o, const Manifest& m) {
  o.context = o.context.value_or(m.retrieval.context);
  o.sinks = o.sinks.value_or(std::min(m.retrieval.sinks, *o.context));
  o.recent = o.recent.value_or(std::min(m.retrieval.recent, *o.context - *o.sinks));
  o.steps = o.steps.value_or(m.steps);
  o.memory_budget = o.memory_budget.value_or(kDefaultBudget);
  o.commit_below = o.commit_below.value_or(m.retrieval.commit_below);
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

void check_world(const World& w) {
  std::set<int64_t> ids(w.ids.begin(), w.ids.end());
  bool good = ids.size() == w.ids.size() && w.views.size() == w.ids.size() &&
              w.by_use.size() == w.ids.size() && std::set(w.by_use.begin(), w.by_use.end()) == ids;
  for (int64_t id : w.ids) good = good && id >= 0 && id < w.next_id;
  for (int64_t id : w.with_page) good = good && ids.contains(id);
  good = good && std::set(w.with_page.begin(), w.with_page.end()).size() == w.with_page.size();
  check<WorldError>(good, "restore: expected different ids below next_id = ", w.next_id,
                    ", each used once, got others");
  for (const View& view : w.views) check_intrinsics(view.intrinsics);
}

}  // namespace

Session::Busy::Busy(Session& session) : session_(session) {
  check<WorldError>(!session.busy_.test_and_set(std::memory_order_acquire),
                    "session: expected one thread at a time, got a call while another is running; ",
                    "wait for it, or give each thread its own session (they can share a model)");
}

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options)
    : model_(std::move(model)),
      options_(complete(options, model_->manifest())),
      engines_(std::make_shared<Engines>(model_, *options_.context, options_.threads)),
      engine_(engines_->take()),
      memory_(model_->backend(), retrieval(options_, model_->manifest()),
              model_->network().page_bytes(*model_->backend()),
              model_->manifest().image_bytes(), *options_.memory_budget) {
  for (size_t i = 0; i < kPooledFrames; ++i)
    pool_.push_back(std::make_shared<Pixels>(size_t(model_->manifest().image_bytes())));
  latencies_.reserve(kWindow);
}

Session::Session(const Session& parent)
    : model_(parent.model_),
      options_(parent.options_),
      engines_(parent.engines_),
      memory_(parent.memory_),
      next_id_(parent.next_id_),
      last_pose_(parent.last_pose_),
      step_cost_(parent.step_cost_),
      fixed_cost_(parent.fixed_cost_) {}

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

int64_t Session::observe(const uint8_t* image, const View& view) {
  const Busy busy(*this);
  check_intrinsics(view.intrinsics);
  commit(next_id_, view, image);
  return next_id_++;
}

Frame Session::step(const View& view, std::optional<double> deadline, uint8_t* out) {
  const Busy busy(*this);
  const Clock::time_point start = Clock::now();
  check_intrinsics(view.intrinsics);
  check_deadline(deadline);
  if (!deadline) deadline = options_.deadline;

  const Context context = recall(memory_.frames().plan(view), view, false);
  Frame frame = generate(view, context, affordable_steps(deadline));
  frame.committed = context.remembered < *options_.commit_below;
  if (frame.committed) commit(next_id_, view, frame.pixels->data());
  if (context.complete && !frame.committed) prefetch(view);
  last_pose_ = view.pose;
  if (out) std::copy(frame.pixels->begin(), frame.pixels->end(), out);
  ++next_id_;

  frame.latency = seconds_since(start);
  frame.late = deadline && frame.latency > *deadline;
  record(frame);
  return frame;
}

Frame Session::imagine(const View& view) {
  const Busy busy(*this);
  const Clock::time_point start = Clock::now();
  check_intrinsics(view.intrinsics);
  Frame frame = generate(view, recall(memory_.frames().peek(view), view, true), steps());
  frame.latency = seconds_since(start);
  return frame;
}

void Session::update_poses(const std::vector<int64_t>& ids, const std::vector<Pose>& poses) {
  const Busy busy(*this);
  check<ArgumentError>(ids.size() == poses.size(), "update_pose: expected as many poses as ids, ",
                       ids.size(), ", got ", poses.size());
  FrameCache& frames = memory_.frames();
  for (const int64_t id : ids) frames.slot_of(id);  // refuses before the first one moves
  for (size_t i = 0; i < ids.size(); ++i)
    frames.update_view(ids[i], {poses[i], frames.view_of(ids[i]).intrinsics});
}

World Session::world() {
  const Busy busy(*this);
  FrameCache& frames = memory_.frames();
  frames.settle();  // so that this session goes on as one that loads the world
  World world{.next_id = next_id_,
              .last_pose = last_pose_,
              .ids = frames.ids(),
              .views = {},
              .by_use = frames.ids_by_use(),
              .with_page = {}};
  for (int64_t id : world.ids) world.views.push_back(frames.view_of(id));
  for (int32_t slot : memory_.pages_by_use()) world.with_page.push_back(frames.id(slot));
  return world;
}

void Session::restore(const World& world, const uint8_t* images) {
  const Busy busy(*this);
  check_world(world);
  FrameCache& frames = memory_.frames();
  const int64_t count = int64_t(world.ids.size());
  check<WorldError>(next_id_ == 0 && frames.size() == 0,
                    "restore: expected a new session, got one with a world of its own");
  check<WorldError>(count <= frames.capacity(), "restore: expected a memory budget for ", count,
                    " frames, got one for ", frames.capacity(), "; raise memory_budget");
  for (int64_t i = 0; i < count; ++i)
    memory_.insert(world.ids[size_t(i)], world.views[size_t(i)],
                   images + i * model_->manifest().image_bytes());
  for (int64_t id : world.by_use) frames.use(id);
  for (int64_t id : world.with_page) make_page(frames.slot_of(id), {});
  next_id_ = world.next_id;
  last_pose_ = world.last_pose;
}

// Of the planned frames whose pages are not at hand: the one that shows most of the view beyond
// what the others show; -1 if all are.
int Session::most_missed(const Plan& plan) const {
  const int wanted = std::min(plan.count, *options_.context);
  uint64_t shown = 0;
  for (int i = 0; i < wanted; ++i)
    if (memory_.has_page(plan.slots[i])) shown |= plan.seen[i];
  int most = -1, best = -1;
  for (int i = 0; i < wanted; ++i) {
    const int adds = std::popcount(plan.seen[i] & ~shown);
    if (!memory_.has_page(plan.slots[i]) && adds > best) most = i, best = adds;
  }
  return most;
}

// The first `context` frames of the plan whose pages are at hand. One that is not is encoded again;
// for the others the plan's spares stand in until later steps encode them, so that a step costs one
// read pass more at most. Dreaming leaves no trace: it encodes into scratch.
Session::Context Session::recall(const Plan& plan, const View& view, bool dreaming) {
  check<WorldError>(plan.count > 0, "step: expected a world with at least one frame, got an empty ",
                    "one; call observe(image, pose) first");
  const std::span<const int32_t> planned(plan.slots, size_t(plan.count));
  const int missed = most_missed(plan);
  const double world_scale = model_->manifest().world_scale;
  Context context;
  context.complete = missed < 0;
  uint64_t seen = 0, remembered = 0;
  for (int i = 0; i < plan.count && context.count < *options_.context; ++i) {
    const int32_t slot = plan.slots[i];
    if (i < *options_.context) remembered |= plan.seen[i];
    if (i != missed && !memory_.has_page(slot)) continue;
    ContextPage& p = context.pages[context.count];
    if (i != missed)
      p.page = dreaming ? memory_.peek_page(slot) : memory_.use_page(slot);
    else
      p.page = dreaming ? encode(slot, memory_.scratch_page()) : make_page(slot, planned);
    p.transform = camera_transform(view, memory_.frames().view(slot), world_scale);
    context.ids[context.count++] = plan.ids[i];
    seen |= plan.seen[i];
  }
  context.support = std::popcount(seen) / 64.0;
  context.remembered = std::popcount(remembered) / 64.0;
  return context;
}

// A step that had nothing else to encode looks one step ahead along the motion since the last one,
// and encodes the page that will be missed most there.
void Session::prefetch(const View& view) {
  if (!last_pose_ || memory_.resident() == memory_.frames().size()) return;
  const Plan plan = memory_.frames().peek({extrapolate(*last_pose_, view.pose), view.intrinsics});
  const std::span<const int32_t> planned(plan.slots, size_t(plan.count));
  const int missed = most_missed(plan);
  if (missed >= 0) make_page(plan.slots[missed], planned);
}

// Touches nothing that a later frame depends on.
Frame Session::generate(const View& view, const Context& context, int steps) {
  const Manifest& m = model_->manifest();
  Frame frame{
      .pixels = borrow_pixels(), .height = m.image_height, .width = m.image_width, .view = view};
  const Clock::time_point start = Clock::now();
  engine().render({.context = {context.pages, size_t(context.count)},
                   .seed = options_.seed,
                   .frame = uint64_t(next_id_)},
                  steps, frame.pixels->data());
  denoising_ = seconds_since(start);
  frame.id = next_id_;
  frame.steps = steps;
  frame.context_size = context.count;
  std::copy_n(context.ids, context.count, frame.context.begin());
  frame.support = context.support;
  return frame;
}

const std::byte* Session::encode(int32_t slot, std::byte* page) {
  engine().encode({}, memory_.image(slot), page);
  return page;
}

void Session::commit(int64_t id, const View& view, const uint8_t* image) {
  make_page(memory_.insert(id, view, image), {});
}

// Encodes a remembered frame that has no page, in room taken from a frame that is none of `keep`.
const std::byte* Session::make_page(int32_t slot, std::span<const int32_t> keep) {
  return encode(slot, memory_.assign_page(slot, keep));
}

std::shared_ptr<Pixels> Session::borrow_pixels() {
  for (const std::shared_ptr<Pixels>& pixels : pool_)
    if (pixels.use_count() == 1) {
      std::atomic_thread_fence(std::memory_order_acquire);  // after the release of the last holder
      return pixels;
    }
  auto pixels = std::make_shared<Pixels>(size_t(model_->manifest().image_bytes()));
  if (pool_.size() < kPooledFrames) pool_.push_back(pixels);
  return pixels;
}

// The most denoising steps, of the tables up to steps(), that the deadline should have room for.
int Session::affordable_steps(std::optional<double> deadline) const {
  const auto& samplers = model_->manifest().samplers;
  if (!deadline) return steps();
  int affordable = samplers.begin()->first;
  for (const auto& [count, table] : samplers)
    if (count <= steps() && fixed_cost_ + count * step_cost_ <= *deadline) affordable = count;
  return std::min(affordable, steps());
}

void Session::record(const Frame& frame) {
  observe_cost(step_cost_, denoising_ / frame.steps);
  observe_cost(fixed_cost_, frame.latency - denoising_);
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
