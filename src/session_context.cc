// SPDX-License-Identifier: Apache-2.0
// What a frame of a session attends to, how it is made and how it is kept.
#include <algorithm>
#include <bit>
#include <span>

#include "src/sequence.h"
#include "src/session.h"

namespace rtfm {

Session::Context Session::recall(const View& view, bool dreaming) {
  if (model_->manifest().by_actions()) return window(view, dreaming);
  FrameCache& frames = memory_.frames();
  const Plan plan = dreaming ? frames.peek(view) : frames.plan(view);
  return recall(plan, most_missed(plan), view, dreaming);
}

// The pose written last, read when the device has nothing else to do before the frame.
void Session::aim(Target& target) {
  engine().finish();
  target.view.pose = target.latest->read();
}

// The context for the newest pose. A page that is missed takes its time to be encoded, so it comes
// before that pose is read for good; what else the new one may miss waits for later steps.
Session::Context Session::recall_latest(Target& target) {
  aim(target);
  if (!fetch_missed(target.view)) return recall(target.view, false);
  aim(target);
  const Plan plan = memory_.frames().plan(target.view);
  const bool shown = std::any_of(plan.slots, plan.slots + plan.count,
                                 [&](int32_t slot) { return memory_.has_page(slot); });
  Context context = recall(plan, shown ? -1 : most_missed(plan), target.view, false);
  context.complete = false;
  return context;
}

Session::Context Session::window(const View& view, bool dreaming) {
  const Sequence& sequence = model_->manifest().sequence;
  Context context = seen(view, dreaming);
  if (sequence.renew && next_id_ > sequence.recent) change([&] { renew(context); });
  return context;
}

// The frames before this one that the model attends to, but for those that were forgotten.
Session::Context Session::seen(const View& view, bool dreaming) {
  const Sequence& sequence = model_->manifest().sequence;
  Context context;
  for_each_seen(sequence, next_id_, [&](int64_t id) {
    const int32_t slot = memory_.frames().find(id);
    if (slot < 0 || !memory_.has_page(slot)) return;
    const std::byte* page = dreaming ? memory_.peek_page(slot) : memory_.use_page(slot);
    context.pages[context.count] = {page, Mat4{}, id};
    context.slots[context.count] = slot;
    context.ids[context.count++] = id;
    if (!dreaming) memory_.frames().use(id);
  });
  context.support = memory_.frames().coverage(view, {context.slots, size_t(context.count)});
  return context;
}

// A frame has left the window, and those that stay must not remember it: their pages are made
// again, the oldest first, each attending to the older ones only.
void Session::renew(Context& context) {
  const PagePart part = model_->network().renewed_from(*model_->backend());
  const auto copy = [this, &part](std::byte* to, const std::byte* from) {
    engine().copy(to + part.offset, from + part.offset, part.bytes);
  };
  for (int i = context.count - 1; i >= 0; --i) {
    std::byte* page = memory_.rewrite_page(context.slots[i], copy);
    context.pages[i].page = page;
    engine().renew({.context = {context.pages + i + 1, size_t(context.count - i - 1)},
                    .seed = options_.seed,
                    .frame = uint64_t(context.ids[i])},
                   page);
  }
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

// The first `context` frames of the plan whose pages are at hand. The one that is `missed` (-1:
// none) is encoded again; for the others the plan's spares stand in until later steps encode them,
// so that a step costs one read pass more at most. Dreaming leaves no trace: it encodes into
// scratch.
Session::Context Session::recall(const Plan& plan, int missed, const View& view, bool dreaming) {
  const std::span<const int32_t> planned(plan.slots, size_t(plan.count));
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
    context.slots[context.count] = slot;
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
  if (last_pose_) fetch_missed({extrapolate(*last_pose_, view.pose), view.intrinsics});
}

// Encodes the page that a frame at `view` would miss most; whether there is one.
bool Session::fetch_missed(const View& view) {
  if (memory_.resident() == memory_.frames().size()) return false;
  const Plan plan = memory_.frames().peek(view);
  const int missed = most_missed(plan);
  if (missed >= 0) make_page(plan.slots[missed], {plan.slots, size_t(plan.count)});
  return missed >= 0;
}

// What a pass is told of the frame that it makes or encodes.
Shot Session::shot(const Target& target, const Context& context) const {
  Shot shot{.context = {context.pages, size_t(context.count)},
            .actions = target.actions,
            .seed = options_.seed,
            .frame = uint64_t(next_id_),
            .state = memory_.state()};
  shot.camera = camera(target.view);
  return shot;
}

// The camera in the gauge of the world, which its first frame fixes for good.
Camera Session::camera(const View& view) const {
  Camera camera{};
  if (!model_->manifest().posed_pages) return camera;
  const RelativeView seen =
      relative_view(view, origin_.value_or(view.pose), model_->manifest().world_scale);
  std::copy(seen.pose.begin(), seen.pose.end(), camera.pose);
  camera.fx = float(seen.intrinsics.fx), camera.fy = float(seen.intrinsics.fy);
  return camera;
}

// Touches nothing that a later frame depends on.
Frame Session::generate(const Target& target, const Context& context, int steps,
                        std::shared_ptr<Pixels> pixels) {
  const Manifest& m = model_->manifest();
  Frame frame{.pixels = std::move(pixels),
              .images = m.images,
              .height = m.image_height,
              .width = m.image_width,
              .view = target.view};
  const Clock::time_point start = Clock::now();
  engine().render(shot(target, context), steps, *frame.pixels);
  denoising_ = seconds_since(start);
  frame.id = next_id_;
  frame.steps = steps;
  frame.context_size = context.count;
  std::copy_n(context.ids, context.count, frame.context.begin());
  frame.support = context.support;
  return frame;
}

// The frame, generated or observed, becomes part of the world. context: what it attended to, of
// models that go by actions.
void Session::commit(const Target& target, const Context& context, const Frame& frame) {
  if (model_->manifest().posed_pages && !origin_) origin_ = target.view.pose;
  const int32_t slot = memory_.insert(next_id_, target.view, frame.image());
  if (!model_->manifest().by_actions()) {
    make_page(slot, {});
    return;
  }
  // To make room, a frame that this one attends to may have been forgotten, and this be its page.
  std::byte* page = memory_.assign_page(slot, {context.slots, size_t(context.count)});
  const bool attended = std::any_of(context.pages, context.pages + context.count,
                                    [&](const ContextPage& p) { return p.page == page; });
  std::byte* to = attended ? memory_.scratch_page() : page;
  Shot shot = this->shot(target, context);
  shot.next_state = memory_.next_state();
  if (frame.steps > 0)
    engine().keep(shot, to);
  else
    engine().encode(shot, frame.pixels->data(), to);
  memory_.advance_state();
  if (attended) engine().copy(page, to, model_->network().page_bytes(*model_->backend()));
}

const std::byte* Session::encode(int32_t slot, std::byte* page) {
  engine().encode({.camera = camera(memory_.frames().view(slot))}, memory_.image(slot), page);
  return page;
}

// Encodes a remembered frame that has no page, in room taken from a frame that is none of `keep`.
const std::byte* Session::make_page(int32_t slot, std::span<const int32_t> keep) {
  return encode(slot, memory_.assign_page(slot, keep));
}

}  // namespace rtfm
