// SPDX-License-Identifier: Apache-2.0
// Sessions, their frames and memory: argument checks and errors; the work is done in src/.
#include "src/session.h"

#include "cpp/convert.h"
#include "cpp/rtfm_rt.h"
#include "src/pose_slot.h"
#include "src/sequence.h"
#include "src/world_file.h"

namespace rtfm_rt {

struct PoseSlot::Impl {
  rtfm::PoseSlot slot;
};

struct Session::Impl {
  Model model;
  std::unique_ptr<rtfm::Session> session;
  std::optional<std::int64_t> budget;  // as it was given
  rtfm::SavedWorld saved;

  // pixels of an image, if it has the size of the model's
  const std::uint8_t* image(std::span<const std::uint8_t> image) const {
    const rtfm::Manifest& m = session->model().manifest();
    rtfm::check<rtfm::ArgumentError>(
        std::int64_t(image.size()) == m.image_bytes(), "image: expected ", m.image_bytes(),
        " bytes, uint8 [", m.image_height, ", ", m.image_width, ", 3] RGB, got ", image.size());
    return image.data();
  }

  std::uint8_t* output(const StepOptions& options) const {
    const rtfm::Manifest& m = session->model().manifest();
    rtfm::check<rtfm::ArgumentError>(
        options.out.empty() || std::int64_t(options.out.size()) == m.image_bytes(),
        "out: expected ", m.image_bytes(), " bytes, uint8 [", m.image_height, ", ", m.image_width,
        ", 3], got ", options.out.size());
    return options.out.data();
  }

  rtfm::View view(const Pose& pose, const std::optional<Intrinsics>& intrinsics) const {
    return to_view(pose, intrinsics, session->default_intrinsics());
  }

  // One value for each action of the manifest.
  std::vector<float> values(const std::vector<Action>& actions) const {
    const rtfm::Manifest& m = session->model().manifest();
    rtfm::check<rtfm::ArgumentError>(m.by_actions(), "action: expected a pose for ", m.name,
                                     ", a model that goes by poses, got actions");
    std::vector<float> values(m.actions.size());
    for (const Action& action : actions)
      values[rtfm::find_action(m, action.name)] = float(action.value);
    return values;
  }
};

// PoseSlot

PoseSlot::PoseSlot(const Pose& pose)
    : impl_(translated([&] { return new Impl{rtfm::PoseSlot(to_pose(pose))}; })) {}
PoseSlot::~PoseSlot() = default;
void PoseSlot::write(const Pose& pose) {
  translated([&] { impl_->slot.write(to_pose(pose)); });
}
Pose PoseSlot::read() const { return from_pose(impl_->slot.read()); }

// Frame

namespace {

std::size_t offset_of(const rtfm::Pixels& pixels, int image, int images) {
  return pixels.size() / std::size_t(images) * std::size_t(image);
}

}  // namespace

const std::uint8_t* Frame::data(int image) const {
  return translated([&] {
    rtfm::check<rtfm::ArgumentError>(pixels_ && image >= 0 && image < images,
                                     "image: expected one of ", pixels_ ? images : 0, ", got ",
                                     image);
    const auto pixels = Access::pixels(*this);
    return pixels->data() + offset_of(*pixels, image, images);
  });
}

const std::uint8_t* Frame::device_data() const {
  const auto pixels = Access::pixels(*this);
  if (!pixels || !pixels->on_device()) return nullptr;
  return reinterpret_cast<const std::uint8_t*>(pixels->on_device()) +
         offset_of(*pixels, images - 1, images);
}

Frame Frame::reproject(const Pose& pose) const {
  return translated([&] {
    data();  // refuses an empty frame
    const rtfm::Frame turned = Access::frame(*this).reproject(to_pose(pose));
    Frame made = *this;
    made.pose = from_pose(turned.view.pose), made.images = 1;
    made.pixels_ = turned.pixels;
    return made;
  });
}

// Memory

// f(const rtfm::Memory&)
template <class F>
auto Memory::read(F&& f) const {
  return translated([&] { return session_.impl().session->with_memory(f); });
}

std::int64_t Memory::size() const {
  return read([](const rtfm::Memory& m) { return m.frames().size(); });
}
std::vector<std::int64_t> Memory::ids() const {
  return read([](const rtfm::Memory& m) { return m.frames().ids(); });
}
Pose Memory::pose(std::int64_t id) const {
  return read([&](const rtfm::Memory& m) { return from_pose(m.frames().view_of(id).pose); });
}
Intrinsics Memory::intrinsics(std::int64_t id) const {
  return read([&](const rtfm::Memory& m) {
    const rtfm::Intrinsics k = m.frames().view_of(id).intrinsics;
    return Intrinsics{k.fx, k.fy};
  });
}
std::vector<std::uint8_t> Memory::image(std::int64_t id) const {
  const rtfm::Manifest& manifest = session_.impl().session->model().manifest();
  std::vector<std::uint8_t> image(std::size_t(manifest.image_bytes()));
  read([&](const rtfm::Memory& m) {
    std::copy_n(m.image(m.frames().slot_of(id)), image.size(), image.data());
  });
  return image;
}
std::int64_t Memory::bytes() const {
  return read([](const rtfm::Memory& m) { return m.bytes(); });
}
std::int64_t Memory::budget() const { return *session_.impl().session->options().memory_budget; }
std::int64_t Memory::evicted() const {
  return read([](const rtfm::Memory& m) { return m.frames().evicted(); });
}
std::int64_t Memory::resident() const {
  return read([](const rtfm::Memory& m) { return m.resident(); });
}

std::vector<std::int64_t> Memory::nearest(const Pose& pose, int k) const {
  return read([&](const rtfm::Memory& m) {
    rtfm::check<rtfm::ArgumentError>(k >= 1, "k: expected 1 or more, got ", k);
    return m.frames().nearest(to_pose(pose), k);
  });
}

double Memory::coverage(const Pose& pose, const std::optional<Intrinsics>& intrinsics) const {
  return read([&](const rtfm::Memory& m) {
    return m.frames().coverage(session_.impl().view(pose, intrinsics));
  });
}

void Memory::update_poses(std::span<const std::int64_t> ids, std::span<const Pose> poses) {
  translated([&] {
    std::vector<rtfm::Pose> moved;
    for (const Pose& pose : poses) moved.push_back(to_pose(pose));
    session_.impl().session->update_poses({ids.begin(), ids.end()}, moved);
  });
}

// Session

namespace {

rtfm::SessionOptions to_options(const Options& o) {
  rtfm::SessionOptions options{.seed = o.seed.value_or(0),
                               .threads = o.threads,
                               .context = o.context,
                               .sinks = o.sinks,
                               .recent = o.recent,
                               .steps = o.steps,
                               .memory_budget = o.memory_budget,
                               .commit_below = o.commit_below,
                               .deadline = o.deadline,
                               .stream = {}};
  if (o.stream) options.stream = reinterpret_cast<std::uintptr_t>(*o.stream);
  return options;
}

void check_plain(const std::optional<Intrinsics>& intrinsics) {
  rtfm::check<rtfm::ArgumentError>(!intrinsics,
                                   "intrinsics: expected none for a model that goes by ",
                                   "actions, whose camera is its own");
}

template <class T>
std::optional<T> either(const std::optional<T>& first, const std::optional<T>& second) {
  return first ? first : second;
}

}  // namespace

Session::Session(const Model& model, const Options& options)
    : Session(translated([&] {
        auto session = std::make_unique<rtfm::Session>(model.impl_->model, to_options(options));
        return std::unique_ptr<Impl>(
            new Impl{model, std::move(session), options.memory_budget, {}});
      })) {}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

Session::Impl& Session::impl() const {
  if (!impl_) throw WorldError("session: expected one, got one that was moved from");
  return *impl_;
}

std::int64_t Session::observe(std::span<const std::uint8_t> image, const Pose& pose,
                              const std::optional<Intrinsics>& intrinsics) {
  return translated([&] {
    Impl& i = impl();
    if (!i.session->model().manifest().by_actions())
      return i.session->observe(i.image(image), i.view(pose, intrinsics));
    check_plain(intrinsics);
    return i.session->observe_next(i.image(image), i.values({}), to_pose(pose));
  });
}

Frame Session::step(const Pose& pose, const StepOptions& options) {
  return translated([&] {
    Impl& i = impl();
    return Access::frame(
        i.session->step(i.view(pose, options.intrinsics), options.deadline, i.output(options)));
  });
}

Frame Session::step(const PoseSlot& pose, const StepOptions& options) {
  return translated([&] {
    Impl& i = impl();
    const rtfm::Intrinsics intrinsics = i.view(pose.read(), options.intrinsics).intrinsics;
    return Access::frame(
        i.session->step(pose.impl_->slot, intrinsics, options.deadline, i.output(options)));
  });
}

Frame Session::imagine(const Pose& pose, const std::optional<Intrinsics>& intrinsics) {
  return translated([&] {
    Impl& i = impl();
    return Access::frame(i.session->imagine(i.view(pose, intrinsics)));
  });
}

std::int64_t Session::observe_act(std::span<const std::uint8_t> image,
                                  const std::vector<Action>& actions,
                                  const std::optional<Pose>& pose) {
  return translated([&] {
    Impl& i = impl();
    std::optional<rtfm::Pose> from;
    if (pose) from = to_pose(*pose);
    return i.session->observe_next(i.image(image), i.values(actions), from);
  });
}

Frame Session::act(const std::vector<Action>& actions, const StepOptions& options) {
  return translated([&] {
    Impl& i = impl();
    check_plain(options.intrinsics);
    return Access::frame(i.session->act(i.values(actions), options.deadline, i.output(options)));
  });
}

Frame Session::imagine_act(const std::vector<Action>& actions) {
  return translated([&] {
    Impl& i = impl();
    return Access::frame(i.session->imagine_act(i.values(actions)));
  });
}

Session Session::fork() {
  return translated([&] {
    Impl& i = impl();
    return Session(std::unique_ptr<Impl>(new Impl{i.model, i.session->fork(), i.budget, {}}));
  });
}

void Session::save(const std::string& path) {
  translated([&] {
    Impl& i = impl();
    rtfm::save_world(*i.session, path, i.model.sha256(), i.budget, i.saved);
  });
}

Session Session::load(const std::string& path, const Model& model, const Options& options) {
  return translated([&] {
    const rtfm::LoadedWorld loaded = rtfm::load_world(path);
    rtfm::check_model(loaded, path, model.path(), model.sha256());
    const rtfm::SessionOptions& theirs = loaded.options;
    Options merged = options;
    merged.seed = options.seed.value_or(theirs.seed);
    merged.context = either(options.context, theirs.context);
    merged.sinks = either(options.sinks, theirs.sinks);
    merged.recent = either(options.recent, theirs.recent);
    merged.steps = either(options.steps, theirs.steps);
    merged.commit_below = either(options.commit_below, theirs.commit_below);
    merged.memory_budget = either(options.memory_budget, theirs.memory_budget);
    Session session(model, merged);
    Impl& i = session.impl();
    rtfm::restore_world(*i.session, loaded);
    i.saved = loaded.saved;
    return session;
  });
}

const Model& Session::model() const { return impl().model; }
std::string Session::device() const { return impl().session->device(); }
int Session::threads() const { return impl().session->threads(); }
int Session::steps() const { return impl().session->steps(); }
int Session::context() const { return *impl().session->options().context; }
Stats Session::stats() const {
  const rtfm::Stats s = impl().session->stats();
  return {s.frames, s.late, s.committed, s.p50, s.p95, s.p99, s.worst};
}

const char* version() { return RTFM_VERSION; }
int cuda_devices() { return rtfm::cuda_devices(); }

}  // namespace rtfm_rt
