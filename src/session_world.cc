// SPDX-License-Identifier: Apache-2.0
// A session's world, as it is written down and taken over again.
#include <algorithm>
#include <set>

#include "src/device.h"
#include "src/sequence.h"
#include "src/session.h"

namespace rtfm {
namespace {

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

// Of models that go by actions, pages behind the window are dropped: no frame will ask for them.
World Session::world() {
  const Busy busy(*this);
  const Manifest& m = model_->manifest();
  FrameCache& frames = memory_.frames();
  change([&] { frames.settle(); });  // so that this session goes on as one that loads the world
  World world{.next_id = next_id_,
              .last_pose = last_pose_,
              .origin = origin_,
              .ids = frames.ids(),
              .views = {},
              .by_use = frames.ids_by_use(),
              .with_page = {},
              .page_dtype = m.by_actions() ? name_of(saved_part().dtype) : "",
              .pages = {}};
  for (int64_t id : world.ids) world.views.push_back(frames.view_of(id));
  const std::vector<int64_t> wanted = sequence_context(m.sequence, next_id_);
  for (int32_t slot : memory_.pages_by_use()) {
    const int64_t id = frames.id(slot);
    if (m.by_actions() && std::find(wanted.begin(), wanted.end(), id) == wanted.end())
      change([&] { memory_.drop_page(slot); });
    else
      world.with_page.push_back(id);
  }
  return world;
}

// All of it, or, where the pages of a window are made again, what that takes.
PagePart Session::saved_part() const {
  const Network& network = model_->network();
  const Backend& backend = *model_->backend();
  if (model_->manifest().sequence.renew) return network.renewed_from(backend);
  return {0, network.page_bytes(backend), backend.operand_dtype()};
}

int64_t Session::state_bytes() const { return model_->network().state_bytes(*model_->backend()); }

std::vector<std::byte> Session::saved_page(int64_t id) {
  const Busy busy(*this);
  const int32_t slot = memory_.frames().slot_of(id);
  check<WorldError>(model_->manifest().by_actions() && memory_.has_page(slot), "frame ", id,
                    ": expected one of a window, got one without a page to write down");
  const PagePart part = saved_part();
  const int64_t state = id == next_id_ - 1 ? state_bytes() : 0;
  std::vector<std::byte> bytes(size_t(part.bytes + state));
  engine().download(bytes.data(), memory_.peek_page(slot) + part.offset, part.bytes);
  if (state) engine().download(bytes.data() + part.bytes, memory_.state(), state);
  return bytes;
}

void Session::check_pages(const World& world) const {
  const bool by_actions = model_->manifest().by_actions();
  const PagePart part = saved_part();
  const std::string dtype = by_actions ? name_of(part.dtype) : "";
  check<WorldError>(world.page_dtype == dtype, "restore: expected a world whose pages are ",
                    dtype.empty() ? "not written down" : dtype, ", as those of this session, got ",
                    world.page_dtype.empty() ? "none" : world.page_dtype,
                    "; load it with precision='", world.page_dtype, "'");
  check<WorldError>(world.pages.size() == (by_actions ? world.with_page.size() : 0),
                    "restore: expected as many pages as frames of the window, got others");
  for (size_t i = 0; i < world.pages.size(); ++i) {
    const int64_t bytes = int64_t(world.pages[i].size()), whole = part.bytes + state_bytes();
    const int64_t wanted = world.with_page[i] == world.next_id - 1 ? whole : part.bytes;
    check<WorldError>(bytes == wanted || bytes == whole,  // the newest when it was saved
                      "restore: expected pages of ", wanted, " bytes, got ", bytes);
  }
}

void Session::restore(const World& world, const uint8_t* images) {
  const Busy busy(*this);
  check_world(world);
  check_pages(world);
  FrameCache& frames = memory_.frames();
  const int64_t count = int64_t(world.ids.size());
  check<WorldError>(next_id_ == 0 && frames.size() == 0,
                    "restore: expected a new session, got one with a world of its own");
  check<WorldError>(count <= frames.capacity(), "restore: expected a memory budget for ", count,
                    " frames, got one for ", frames.capacity(), "; raise memory_budget to ",
                    memory_.budget_for(count));
  check<WorldError>(world.origin || !model_->manifest().posed_pages || count == 0,
                    "restore: expected the pose of the first frame, got none");
  change([&] {
    origin_ = world.origin;
    for (int64_t i = 0; i < count; ++i)
      memory_.insert(world.ids[size_t(i)], world.views[size_t(i)],
                     images + i * model_->manifest().image_bytes());
    for (int64_t id : world.by_use) frames.use(id);
    next_id_ = world.next_id;
    last_pose_ = world.last_pose;
    if (model_->manifest().by_actions()) return restore_pages(world);
    for (int64_t id : world.with_page) make_page(frames.slot_of(id), {});
  });
}

void Session::restore_pages(const World& world) {
  const PagePart part = saved_part();
  for (size_t i = 0; i < world.pages.size(); ++i) {
    std::byte* page = memory_.assign_page(memory_.frames().slot_of(world.with_page[i]), {});
    engine().upload(page + part.offset, world.pages[i].data(), part.bytes);
    if (!state_bytes() || world.with_page[i] != world.next_id - 1) continue;
    engine().upload(memory_.next_state(), world.pages[i].data() + part.bytes, state_bytes());
    memory_.advance_state();
  }
  if (!model_->manifest().sequence.renew) return;
  Context context = seen(target({}).view, true);
  renew(context);
}

}  // namespace rtfm
