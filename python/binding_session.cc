// SPDX-License-Identifier: Apache-2.0
// Session and Memory of the module rtfm_rt._core.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "python/bindings.h"
#include "python/convert.h"
#include "src/model.h"
#include "src/pose_slot.h"
#include "src/session.h"

namespace rtfm::python {
namespace {

using namespace py::literals;

std::shared_ptr<Session> make_session(const py::object& model, const py::object& threads,
                                      const py::object& seed, const py::object& context,
                                      const py::object& steps, const py::object& memory_budget,
                                      const py::object& deadline, const py::object& commit_below,
                                      const py::object& sinks, const py::object& recent,
                                      const py::object& stream) {
  SessionOptions o;
  o.seed = to_option<uint64_t>(seed, "seed", "an integer from 0 to 2**64 - 1").value_or(0);
  o.threads = to_option<int>(threads, "threads", "an integer");
  o.context = to_option<int>(context, "context", "an integer");
  o.steps = to_option<int>(steps, "steps", "an integer");
  o.memory_budget = to_option<int64_t>(memory_budget, "memory_budget", "a number of bytes");
  o.deadline = to_option<double>(deadline, "deadline", "seconds");
  o.commit_below = to_option<double>(commit_below, "commit_below", "a share of the view");
  o.sinks = to_option<int>(sinks, "sinks", "an integer");
  o.recent = to_option<int>(recent, "recent", "an integer");
  o.stream = to_stream(stream);
  const auto shared = share<Model>(model);
  const WithoutGil released;
  return std::make_shared<Session>(shared, o);
}

View to_view(const Session& session, const py::object& pose, const py::object& intrinsics) {
  return {to_pose(pose), to_intrinsics(intrinsics, session.default_intrinsics())};
}

void check_plain(const py::object& intrinsics, const char* call) {
  check<ArgumentError>(intrinsics.is_none(), call,
                       ": expected no intrinsics for a model that goes by actions, whose camera is "
                       "its own");
}

View to_pose_target(const Session& session, const py::object& pose, const py::object& action,
                    const py::object& intrinsics, const char* call) {
  check<ArgumentError>(action.is_none(), call, ": expected a pose for ",
                       session.model().manifest().name, ", a model that goes by poses, got an ",
                       "action");
  return to_view(session, pose, intrinsics);
}

std::vector<float> to_action_target(const Session& session, const py::object& pose,
                                    const py::object& action, const py::object& intrinsics,
                                    const char* call) {
  check_plain(intrinsics, call);
  check<ArgumentError>(pose.is_none() && !action.is_none(), call, ": expected action=... for ",
                       session.model().manifest().name, ", a model that goes by actions, got ",
                       pose.is_none() ? "none" : "a pose");
  return to_actions(action, session.model().manifest());
}

template <class Imagine>
void add(std::vector<Frame>& frames, Imagine&& imagine) {
  {
    const WithoutGil released;
    frames.push_back(imagine());
  }
  if (PyErr_CheckSignals()) throw py::error_already_set();  // Ctrl-C does not wait for the others
}

void restore_world(Session& session, const py::dict& saved,
                   const py::array_t<uint8_t, py::array::c_style>& images) {
  const World world = to_world(saved, images.size(), session.model().manifest());
  const WithoutGil released;
  session.restore(world, images.data());
}

void bind_memory(py::module_& m) {
  py::class_<MemoryView>(m, "Memory",
                         "What a session remembers. Reading it counts as using the session.")
      .def("__len__",
           [](const MemoryView& self) {
             return self.session->with_memory([](const Memory& m) { return m.frames().size(); });
           })
      .def_property_readonly(
          "ids",
          [](const MemoryView& self) {
            return self.session->with_memory([](const Memory& m) { return m.frames().ids(); });
          },
          "Ids of the remembered frames, oldest first.")
      .def_property_readonly(
          "poses",
          [](const MemoryView& self) {
            return self.session->with_memory([](const Memory& m) {
              const FrameCache& c = m.frames();
              const std::vector<int64_t> ids = c.ids();
              py::array_t<double> poses({py::ssize_t(ids.size()), py::ssize_t(4), py::ssize_t(4)});
              for (size_t i = 0; i < ids.size(); ++i) {
                const std::array<double, 16> matrix = c.view_of(ids[i]).pose.matrix();
                std::copy(matrix.begin(), matrix.end(), poses.mutable_data() + i * 16);
              }
              return poses;
            });
          },
          "Their poses, (n, 4, 4) float64, in the order of `ids`.")
      .def_property_readonly(
          "bytes",
          [](const MemoryView& self) {
            return self.session->with_memory([](const Memory& m) { return m.bytes(); });
          },
          "Bytes in use: the pixels of all frames, and the pages at hand.")
      .def_property_readonly(
          "budget", [](const MemoryView& self) { return *self.session->options().memory_budget; },
          "Bytes that pixels and pages may take.")
      .def_property_readonly(
          "evicted",
          [](const MemoryView& self) {
            return self.session->with_memory([](const Memory& m) { return m.frames().evicted(); });
          },
          "Frames forgotten so far to stay within the budget.")
      .def_property_readonly(
          "resident",
          [](const MemoryView& self) {
            return self.session->with_memory([](const Memory& m) { return m.resident(); });
          },
          "Frames whose pages are at hand; the others are encoded again when they are wanted.")
      .def(
          "image",
          [](const MemoryView& self, int64_t id) {
            const Manifest& manifest = self.session->model().manifest();
            py::array_t<uint8_t> image({manifest.image_height, manifest.image_width, 3});
            self.session->with_memory([&](const Memory& m) {
              std::copy_n(m.image(m.frames().slot_of(id)), image.size(), image.mutable_data());
            });
            return image;
          },
          "id"_a, "A copy of a remembered frame's pixels, uint8 (height, width, 3).")
      .def(
          "nearest",
          [](const MemoryView& self, const py::object& pose, int k) {
            const Pose from = to_pose(pose);
            check<ArgumentError>(k >= 1, "k: expected 1 or more, got ", k);
            return self.session->with_memory(
                [&](const Memory& m) { return m.frames().nearest(from, k); });
          },
          "pose"_a, "k"_a = 1, "Ids of the k frames seen from nearest to `pose`, nearest first.")
      .def(
          "coverage",
          [](const MemoryView& self, const py::object& pose, const py::object& intrinsics) {
            const View view = to_view(*self.session, pose, intrinsics);
            return self.session->with_memory(
                [&](const Memory& m) { return m.frames().coverage(view); });
          },
          "pose"_a, "intrinsics"_a = py::none(),
          "Share of the view that all remembered frames together have seen, 0 to 1.")
      .def(
          "update_pose",
          [](const MemoryView& self, const py::object& ids, const py::object& poses) {
            const char* expected = "an id or several";
            check<ArgumentError>(!ids.is_none(), "ids: expected ", expected, ", got None");
            if (PyIndex_Check(ids.ptr()) && !PySequence_Check(ids.ptr()))  // arrays are both
              return self.session->update_poses({*to_option<int64_t>(ids, "ids", expected)},
                                                {to_pose(poses)});
            const auto many = *to_option<std::vector<int64_t>>(ids, "ids", expected);
            check<ArgumentError>(py::isinstance<py::iterable>(poses),
                                 "poses: expected one for each of ", many.size(), " ids, got ",
                                 describe(poses));
            std::vector<Pose> moved;
            for_each(poses, [&](const py::object& pose) { moved.push_back(to_pose(pose)); });
            self.session->update_poses(many, moved);
          },
          "ids"_a, "poses"_a,
          "Moves a remembered frame, or several with as many poses, as after a loop closure. All "
          "or "
          "none; nothing is encoded again.");
}

void bind_pose_slot(py::module_& m) {
  py::class_<PoseSlot>(m, "PoseSlot",
                       "The newest pose of a camera: one thread writes it, and step(slot) takes "
                       "the one that was written last when the frame is launched. Elsewhere it is "
                       "the pose that it holds at the call. Neither side ever waits for the other.")
      .def(py::init(
               [](const py::object& pose) { return std::make_unique<PoseSlot>(to_pose(pose)); }),
           "pose"_a)
      .def(
          "write", [](PoseSlot& self, const py::object& pose) { self.write(to_pose(pose)); },
          "pose"_a,
          "Replaces the pose, from any thread. One that step would refuse is a PoseError here, and "
          "the slot keeps the one before.")
      .def(
          "read", [](const PoseSlot& self) { return from_pose(self.read()); },
          "The pose written last: camera-to-world (4, 4) float64.")
      .def(
          "__array__",
          [](const PoseSlot& self, const py::object& dtype, const py::object&) -> py::object {
            const py::object matrix = from_pose(self.read());
            return dtype.is_none() ? matrix : matrix.attr("astype")(dtype);
          },
          "dtype"_a = py::none(), "copy"_a = py::none());
}

}  // namespace

void bind_session(py::module_& m) {
  bind_memory(m);
  bind_pose_slot(m);
  py::class_<Session, std::shared_ptr<Session>>(m, "Session")
      .def(py::init([](Session& parent) {
             const WithoutGil released;
             return parent.fork();
           }),
           "parent"_a, "A branch of another session's world.")
      .def(py::init(&make_session), "model"_a, py::kw_only(), "threads"_a = py::none(),
           "seed"_a = 0, "context"_a = py::none(), "steps"_a = py::none(),
           "memory_budget"_a = py::none(), "deadline"_a = py::none(), "commit_below"_a = py::none(),
           "sinks"_a = py::none(), "recent"_a = py::none(), "stream"_a = py::none())
      .def(
          "observe",
          [](Session& self, const py::object& image, const py::object& pose,
             const py::object& action, const py::object& intrinsics) {
            const Manifest& m = self.model().manifest();
            const auto pixels = to_image(image, m);
            if (m.by_actions()) {
              check_plain(intrinsics, "observe");
              const auto actions =
                  action.is_none() ? std::vector<float>(m.actions.size()) : to_actions(action, m);
              std::optional<Pose> from;
              if (!pose.is_none()) from = to_pose(pose);
              const WithoutGil released;
              return self.observe_next(pixels.data(), actions, from);
            }
            const View view = to_pose_target(self, pose, action, intrinsics, "observe");
            const WithoutGil released;
            return self.observe(pixels.data(), view);
          },
          "image"_a, "pose"_a = py::none(), py::kw_only(), "action"_a = py::none(),
          "intrinsics"_a = py::none(),
          "A real frame enters the world: uint8 (height, width, 3) RGB seen from `pose`. Models "
          "that "
          "go by actions reckon the pose where none is given. Returns its id.")
      .def(
          "step",
          [](Session& self, const py::object& pose, const py::object& action,
             const py::object& intrinsics, const py::object& deadline, const py::object& out) {
            const Manifest& m = self.model().manifest();
            const auto seconds = to_option<double>(deadline, "deadline", "seconds");
            uint8_t* pixels = to_output(out, m);
            if (m.by_actions()) {
              const auto actions = to_action_target(self, pose, action, intrinsics, "step");
              const WithoutGil released;
              return self.act(actions, seconds, pixels);
            }
            const View view = to_pose_target(self, pose, action, intrinsics, "step");
            const auto* slot =
                py::isinstance<PoseSlot>(pose) ? pose.cast<const PoseSlot*>() : nullptr;
            const WithoutGil released;
            return slot ? self.step(*slot, view.intrinsics, seconds, pixels)
                        : self.step(view, seconds, pixels);
          },
          "pose"_a = py::none(), py::kw_only(), "action"_a = py::none(),
          "intrinsics"_a = py::none(), "deadline"_a = py::none(), "out"_a = py::none(),
          "The frame seen from `pose`, or, of a model that goes by actions, the one that `action` "
          "leads to: a dict of names and numbers (see `actions`), or an array of all. A PoseSlot "
          "gives the pose that is written last; `frame.pose` says which. deadline: "
          "seconds; takes fewer denoising steps where that "
          "helps "
          "and sets `late` where it did not. out: uint8 (height, width, 3) to write to as well.")
      .def(
          "imagine",
          [](Session& self, const py::object& poses, const py::object& actions,
             const py::object& intrinsics) {
            std::vector<View> views;
            std::vector<std::vector<float>> moves;
            const bool by_actions = self.model().manifest().by_actions();
            const py::object& wanted = by_actions ? actions : poses;
            check<ArgumentError>(
                py::isinstance<py::iterable>(wanted) && (by_actions ? poses : actions).is_none(),
                "imagine: expected ", by_actions ? "actions=[...]" : "poses", " for ",
                self.model().manifest().name, ", got ", describe(poses), " and ",
                describe(actions));
            for_each(wanted, [&](const py::object& object) {
              if (by_actions)
                moves.push_back(to_actions(object, self.model().manifest()));
              else
                views.push_back(to_view(self, object, intrinsics));
            });
            std::vector<Frame> frames;
            for (const View& view : views) add(frames, [&] { return self.imagine(view); });
            for (const auto& values : moves) add(frames, [&] { return self.imagine_act(values); });
            return frames;
          },
          "poses"_a = py::none(), py::kw_only(), "actions"_a = py::none(),
          "intrinsics"_a = py::none(),
          "For each pose (or action) the frame that step would return now. Nothing is committed. "
          "Ctrl-C does not wait for the last of them.")
      .def(
          "_world", [](Session& self) { return from_world(self.world()); },
          "What `save` writes down, but for the images and the bytes of pages.")
      .def(
          "_page",
          [](Session& self, int64_t id) {
            const std::vector<std::byte> page = self.saved_page(id);
            return py::bytes(reinterpret_cast<const char*>(page.data()), page.size());
          },
          "id"_a, "What `save` writes down of the page of a frame in `with_page` of `_world`.")
      .def("_options",
           [](const Session& self) {
             const SessionOptions& o = self.options();
             if (self.model().manifest().by_actions())  // the window is the model's own
               return py::dict("seed"_a = o.seed, "steps"_a = *o.steps);
             return py::dict("seed"_a = o.seed, "context"_a = *o.context, "sinks"_a = *o.sinks,
                             "recent"_a = *o.recent, "steps"_a = *o.steps,
                             "commit_below"_a = *o.commit_below);
           })
      .def("_restore", &restore_world, "world"_a, "images"_a)
      .def(
          "stats",
          [](const Session& self) {
            const Stats s = self.stats();
            return py::dict("frames"_a = s.frames, "late"_a = s.late, "committed"_a = s.committed,
                            "p50"_a = s.p50, "p95"_a = s.p95, "p99"_a = s.p99, "max"_a = s.worst);
          },
          "Counts since the start, and latencies in seconds over the last 1024 steps.")
      .def_property_readonly(
          "memory", [](const py::object& self) { return MemoryView{share<Session>(self)}; },
          "What the session remembers.")
      .def_property_readonly("device", &Session::device, "Where it runs: \"cpu:amx\", \"cuda:0\".")
      .def_property_readonly("precision",
                             [](const Session& self) { return self.model().precision(); })
      .def_property_readonly("threads", &Session::threads)
      .def_property_readonly("steps", &Session::steps)
      .def_property_readonly("context", [](const Session& self) { return *self.options().context; })
      .def_property_readonly(
          "actions",
          [](const Session& self) {
            py::dict actions;
            for (const Action& a : self.model().manifest().actions)
              actions[py::str(a.name)] = py::make_tuple(a.min, a.max);
            return actions;
          },
          "Name and (least, most) of each action that step(action=...) takes; empty for a model "
          "that "
          "goes by poses.")
      .def_property_readonly(
          "image_size",
          [](const Session& self) {
            const Manifest& manifest = self.model().manifest();
            return py::make_tuple(manifest.image_height, manifest.image_width);
          },
          "(height, width) of frames.")
      .def_property_readonly(
          "intrinsics",
          [](const Session& self) {
            const Intrinsics k = self.default_intrinsics();
            return py::make_tuple(k.fx, k.fy);
          },
          "The model's own (fx, fy), used where a call gives none.");
}

}  // namespace rtfm::python
