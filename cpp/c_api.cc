// SPDX-License-Identifier: Apache-2.0
// rtfm_rt_c.h over rtfm_rt.h.
#include <algorithm>
#include <cstring>
#include <new>

#include "cpp/rtfm_rt.h"
#include "cpp/rtfm_rt_c.h"

struct rtfm_model {
  rtfm_rt::Model model;
  std::string device, precision;
  std::vector<rtfm_rt::ActionRange> actions;
};
struct rtfm_session {
  rtfm_rt::Session session;
};
struct rtfm_slot {
  rtfm_rt::PoseSlot slot;
};

namespace {

using namespace rtfm_rt;

rtfm_status told(rtfm_error* error, rtfm_status status, const char* message) {
  if (!error) return status;
  error->status = status;
  const size_t size = std::min(std::strlen(message), sizeof error->message - 1);
  std::memcpy(error->message, message, size);
  error->message[size] = 0;
  return status;
}

// f(), and what it throws as a status and a message.
template <class F>
rtfm_status guarded(rtfm_error* error, F&& f) {
  try {
    f();
    return told(error, RTFM_OK, "");
  } catch (const PoseError& e) {
    return told(error, RTFM_POSE_ERROR, e.what());
  } catch (const ArgumentError& e) {
    return told(error, RTFM_ARGUMENT_ERROR, e.what());
  } catch (const ModelError& e) {
    return told(error, RTFM_MODEL_ERROR, e.what());
  } catch (const WorldError& e) {
    return told(error, RTFM_WORLD_ERROR, e.what());
  } catch (const DeviceError& e) {
    return told(error, RTFM_DEVICE_ERROR, e.what());
  } catch (const std::bad_alloc&) {
    return told(error, RTFM_ERROR, "expected memory for the call, got none");
  } catch (const std::exception& e) {
    return told(error, RTFM_ERROR, e.what());
  }
}

// What f() makes, or null.
template <class F>
auto made(rtfm_error* error, F&& f) -> decltype(f()) {
  decltype(f()) object = nullptr;
  guarded(error, [&] { object = f(); });
  return object;
}

template <class T>
T* given(T* pointer, const char* name) {
  if (!pointer) throw ArgumentError(std::string(name) + ": expected one, got NULL");
  return pointer;
}

Pose to_pose(const double* pose) {
  return Pose::from_matrix(std::span<const double, 16>(given(pose, "pose"), 16));
}

template <size_t N>
std::array<double, N> to_array(const double* values, const char* name) {
  std::array<double, N> array;
  std::copy_n(given(values, name), N, array.begin());
  return array;
}

// matrix of f() to `out`
template <class F>
rtfm_status put_matrix(double* out, const char* name, rtfm_error* error, F&& f) {
  return guarded(error, [&] {
    given(out, name);
    std::ranges::copy(f(), out);
  });
}

std::optional<Intrinsics> to_intrinsics(const double* k) {
  if (!k || (k[0] == 0 && k[1] == 0)) return std::nullopt;
  return Intrinsics{k[0], k[1]};
}

template <class T>
std::optional<T> from(T least, T value) {  // that is set if it is not below `least`
  return value < least ? std::nullopt : std::optional<T>(value);
}

Options to_options(const rtfm_options* o) {
  if (!o) return {};
  Options options{.threads = from(1, o->threads),
                  .context = from(1, o->context),
                  .sinks = from(0, o->sinks),
                  .recent = from(0, o->recent),
                  .steps = from(1, o->steps),
                  .memory_budget = from(int64_t{1}, o->memory_budget)};
  if (o->seed) options.seed = o->seed;
  if (!(o->commit_below < 0)) options.commit_below = o->commit_below;
  if (o->deadline != 0) options.deadline = o->deadline;
  return options;
}

StepOptions to_options(const rtfm_step_options* o) {
  if (!o) return {};
  StepOptions options{.intrinsics = to_intrinsics(o->intrinsics)};
  if (o->deadline != 0) options.deadline = o->deadline;
  return options;
}

std::span<const uint8_t> to_image(const Session& session, const uint8_t* image) {
  const Model& model = session.model();
  return {given(image, "image"), size_t(3) * size_t(model.height()) * size_t(model.width())};
}

std::vector<Action> to_actions(const Session& session, const double* values) {
  std::vector<Action> actions;
  for (const ActionRange& range : session.model().actions())
    if (values) actions.push_back({range.name, *values++});
  return actions;
}

void copy(const Frame& f, uint8_t* pixels, rtfm_receipt* receipt) {
  if (pixels) std::copy_n(f.data(0), f.pixels().size() * size_t(f.images), pixels);
  if (!receipt) return;
  *receipt = {};
  receipt->id = f.id;
  std::ranges::copy(f.pose.to_matrix(), receipt->pose);
  receipt->intrinsics[0] = f.intrinsics.fx, receipt->intrinsics[1] = f.intrinsics.fy;
  receipt->latency = f.latency, receipt->support = f.support, receipt->steps = f.steps;
  receipt->late = f.late, receipt->committed = f.committed;
  receipt->context_count = int32_t(f.context().size());
  std::ranges::copy(f.context(), receipt->context);
}

}  // namespace

const char* rtfm_version(void) { return version(); }

// poses

static_assert(int(Convention::kOpenGl) == RTFM_OPENGL && int(Convention::kOpenXr) == RTFM_OPENXR &&
              int(Convention::kRosOptical) == RTFM_ROS_OPTICAL &&
              int(Convention::kRosBody) == RTFM_ROS_BODY && int(Convention::kUnity) == RTFM_UNITY);

rtfm_status rtfm_pose_from_matrix(const double* matrix, rtfm_convention convention, double* pose,
                                  rtfm_error* error) {
  return put_matrix(pose, "pose", error, [&] {
    return Pose::from_matrix(to_array<16>(matrix, "matrix"), Convention(convention)).to_matrix();
  });
}

rtfm_status rtfm_pose_from_quaternion(const double* position, const double* xyzw,
                                      rtfm_convention convention, double* pose, rtfm_error* error) {
  return put_matrix(pose, "pose", error, [&] {
    const Pose there =
        Pose::from_quaternion(to_array<3>(position, "position"), to_array<4>(xyzw, "xyzw"));
    return Pose::from_matrix(there.to_matrix(), Convention(convention)).to_matrix();
  });
}

rtfm_status rtfm_pose_look_at(const double* eye, const double* target, const double* up,
                              double* pose, rtfm_error* error) {
  return put_matrix(pose, "pose", error, [&] {
    return Pose::look_at(to_array<3>(eye, "eye"), to_array<3>(target, "target"),
                         to_array<3>(up, "up"))
        .to_matrix();
  });
}

rtfm_status rtfm_pose_to_matrix(const double* pose, rtfm_convention convention, double* matrix,
                                rtfm_error* error) {
  return put_matrix(matrix, "matrix", error,
                    [&] { return to_pose(pose).to_matrix(Convention(convention)); });
}

rtfm_status rtfm_intrinsics_from_fov(double horizontal, double aspect, double* intrinsics,
                                     rtfm_error* error) {
  return guarded(error, [&] {
    given(intrinsics, "intrinsics");
    const Intrinsics k = Intrinsics::from_fov(horizontal, aspect);
    intrinsics[0] = k.fx, intrinsics[1] = k.fy;
  });
}

// model

rtfm_model* rtfm_model_open(const char* path, const char* device, const char* precision,
                            rtfm_error* error) {
  return made(error, [&] {
    Model model(given(path, "path"),
                {.device = given(device, "device"), .precision = given(precision, "precision")});
    return new rtfm_model{model, model.device(), model.precision(), model.actions()};
  });
}

void rtfm_model_close(rtfm_model* model) { delete model; }

rtfm_model_info rtfm_model_describe(const rtfm_model* m) {
  return {.name = m->model.name().c_str(),
          .device = m->device.c_str(),
          .precision = m->precision.c_str(),
          .manifest = m->model.manifest().c_str(),
          .images = m->model.images(),
          .height = m->model.height(),
          .width = m->model.width(),
          .actions = int32_t(m->actions.size()),
          .intrinsics = {m->model.intrinsics().fx, m->model.intrinsics().fy},
          .parameters = m->model.parameters()};
}

rtfm_action_range rtfm_model_action(const rtfm_model* m, int32_t index) {
  if (index < 0 || size_t(index) >= m->actions.size()) return {};
  const ActionRange& range = m->actions[size_t(index)];
  return {range.name.c_str(), range.min, range.max};
}

// session

rtfm_options rtfm_default_options(void) {
  return {.seed = 0,
          .threads = 0,
          .context = 0,
          .steps = 0,
          .sinks = -1,
          .recent = -1,
          .memory_budget = 0,
          .commit_below = -1,
          .deadline = 0};
}

rtfm_session* rtfm_session_new(const rtfm_model* model, const rtfm_options* options,
                               rtfm_error* error) {
  return made(error, [&] {
    return new rtfm_session{Session(given(model, "model")->model, to_options(options))};
  });
}

void rtfm_session_free(rtfm_session* session) { delete session; }

rtfm_session* rtfm_session_fork(rtfm_session* session, rtfm_error* error) {
  return made(error, [&] { return new rtfm_session{given(session, "session")->session.fork()}; });
}

rtfm_status rtfm_session_save(rtfm_session* session, const char* path, rtfm_error* error) {
  return guarded(error, [&] { given(session, "session")->session.save(given(path, "path")); });
}

rtfm_session* rtfm_session_load(const char* path, const rtfm_model* model,
                                const rtfm_options* options, rtfm_error* error) {
  return made(error, [&] {
    return new rtfm_session{
        Session::load(given(path, "path"), given(model, "model")->model, to_options(options))};
  });
}

rtfm_status rtfm_session_observe(rtfm_session* session, const uint8_t* image, const double pose[16],
                                 const double intrinsics[2], rtfm_error* error) {
  return guarded(error, [&] {
    Session& s = given(session, "session")->session;
    s.observe(to_image(s, image), to_pose(pose), to_intrinsics(intrinsics));
  });
}

rtfm_status rtfm_session_step(rtfm_session* session, const double pose[16],
                              const rtfm_step_options* options, uint8_t* frame,
                              rtfm_receipt* receipt, rtfm_error* error) {
  return guarded(error, [&] {
    Session& s = given(session, "session")->session;
    copy(s.step(to_pose(pose), to_options(options)), frame, receipt);
  });
}

rtfm_status rtfm_session_step_slot(rtfm_session* session, const rtfm_slot* slot,
                                   const rtfm_step_options* options, uint8_t* frame,
                                   rtfm_receipt* receipt, rtfm_error* error) {
  return guarded(error, [&] {
    Session& s = given(session, "session")->session;
    copy(s.step(given(slot, "slot")->slot, to_options(options)), frame, receipt);
  });
}

rtfm_status rtfm_session_imagine(rtfm_session* session, const double pose[16],
                                 const double intrinsics[2], uint8_t* frame, rtfm_receipt* receipt,
                                 rtfm_error* error) {
  return guarded(error, [&] {
    Session& s = given(session, "session")->session;
    copy(s.imagine(to_pose(pose), to_intrinsics(intrinsics)), frame, receipt);
  });
}

rtfm_status rtfm_session_observe_act(rtfm_session* session, const uint8_t* image,
                                     const double* actions, rtfm_error* error) {
  return guarded(error, [&] {
    Session& s = given(session, "session")->session;
    s.observe_act(to_image(s, image), to_actions(s, actions));
  });
}

rtfm_status rtfm_session_act(rtfm_session* session, const double* actions,
                             const rtfm_step_options* options, uint8_t* frame,
                             rtfm_receipt* receipt, rtfm_error* error) {
  return guarded(error, [&] {
    Session& s = given(session, "session")->session;
    copy(s.act(to_actions(s, actions), to_options(options)), frame, receipt);
  });
}

rtfm_status rtfm_session_imagine_act(rtfm_session* session, const double* actions, uint8_t* frame,
                                     rtfm_receipt* receipt, rtfm_error* error) {
  return guarded(error, [&] {
    Session& s = given(session, "session")->session;
    copy(s.imagine_act(to_actions(s, actions)), frame, receipt);
  });
}

rtfm_stats rtfm_session_stats(const rtfm_session* session) {
  const Stats s = session->session.stats();
  return {s.frames, s.late, s.committed, s.p50, s.p95, s.p99, s.worst};
}

// memory

rtfm_status rtfm_session_memory(rtfm_session* session, rtfm_memory* memory, rtfm_error* error) {
  return guarded(error, [&] {
    const Memory m = given(session, "session")->session.memory();
    *given(memory, "memory") = {m.size(), m.bytes(), m.budget(), m.evicted(), m.resident()};
  });
}

int32_t rtfm_session_nearest(rtfm_session* session, const double pose[16], int64_t* ids,
                             int32_t most, rtfm_error* error) {
  int32_t count = -1;
  guarded(error, [&] {
    const Memory memory = given(session, "session")->session.memory();
    const std::vector<int64_t> found = memory.nearest(to_pose(pose), most);
    std::ranges::copy(found, given(ids, "ids"));
    count = int32_t(found.size());
  });
  return count;
}

double rtfm_session_coverage(rtfm_session* session, const double pose[16], rtfm_error* error) {
  double coverage = -1;
  guarded(error,
          [&] { coverage = given(session, "session")->session.memory().coverage(to_pose(pose)); });
  return coverage;
}

rtfm_status rtfm_session_update_poses(rtfm_session* session, const int64_t* ids,
                                      const double* poses, int32_t count, rtfm_error* error) {
  return guarded(error, [&] {
    if (count < 0) throw ArgumentError("count: expected 0 or more, got " + std::to_string(count));
    std::vector<Pose> moved;
    for (int32_t i = 0; i < count; ++i) moved.push_back(to_pose(given(poses, "poses") + 16 * i));
    const std::span<const int64_t> which(count ? given(ids, "ids") : ids, size_t(count));
    given(session, "session")->session.memory().update_poses(which, moved);
  });
}

// slot

rtfm_slot* rtfm_slot_new(const double pose[16], rtfm_error* error) {
  return made(error, [&] { return new rtfm_slot{PoseSlot(to_pose(pose))}; });
}

void rtfm_slot_free(rtfm_slot* slot) { delete slot; }

rtfm_status rtfm_slot_write(rtfm_slot* slot, const double pose[16], rtfm_error* error) {
  return guarded(error, [&] { given(slot, "slot")->slot.write(to_pose(pose)); });
}
