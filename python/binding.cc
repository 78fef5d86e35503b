// SPDX-License-Identifier: Apache-2.0
// The module rtfm_rt._core: argument checks, the GIL and docstrings over src/session.h.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>

#include "python/convert.h"
#include "src/model.h"
#include "src/session.h"

namespace rtfm::python {
namespace {

using namespace py::literals;

struct MemoryView {  // what Python calls Memory
  std::shared_ptr<Session> session;
};

py::object parse_json(const std::string& json) {
  return py::module_::import("json").attr("loads")(json);
}

py::dict read_info(const std::string& path) {
  const ModelFile file = [&] {
    const py::gil_scoped_release release;
    return load_model_file(path);
  }();
  return py::dict("manifest"_a = parse_json(file.manifest_json),
                  "tensors"_a = file.weights.tensors().size(), "parameters"_a = file.parameters,
                  "bytes"_a = file.weights.file_bytes());
}

std::shared_ptr<Session> make_session(const py::object& model, const std::string& device,
                                      const std::string& precision, const py::object& threads,
                                      const py::object& seed, const py::object& context,
                                      const py::object& steps, const py::object& memory_budget,
                                      const py::object& deadline, const py::object& commit_below,
                                      const py::object& sinks, const py::object& recent) {
  SessionOptions o;
  o.seed = to_option<uint64_t>(seed, "seed", "an integer from 0 to 2**64 - 1").value_or(0);
  o.threads = to_option<int>(threads, "threads", "an integer").value_or(0);
  check<ArgumentError>(threads.is_none() || (o.threads >= 1 && o.threads <= 256),
                       "threads: expected 1 to 256, or None for one per CPU, got ", o.threads);
  o.context = to_option<int>(context, "context", "an integer");
  o.steps = to_option<int>(steps, "steps", "an integer");
  o.memory_budget = to_option<int64_t>(memory_budget, "memory_budget", "a number of bytes");
  o.deadline = to_option<double>(deadline, "deadline", "seconds");
  o.commit_below = to_option<double>(commit_below, "commit_below", "a share of the view");
  o.sinks = to_option<int>(sinks, "sinks", "an integer");
  o.recent = to_option<int>(recent, "recent", "an integer");
  if (py::isinstance<Model>(model)) {
    check<ArgumentError>(
        device == "auto" && precision == "auto",
        "device, precision: expected none beside a Model, which has its own, got '", device, "', '",
        precision, "'");
    const auto shared = model.cast<std::shared_ptr<Model>>();
    const py::gil_scoped_release release;
    return std::make_shared<Session>(shared, o);
  }
  const auto path = to_option<std::string>(model, "model", "a Model or the path of a model file");
  check<ArgumentError>(path.has_value(), "model: expected a Model or a path, got None");
  const py::gil_scoped_release release;
  return std::make_shared<Session>(std::make_shared<Model>(*path, device, precision), o);
}

View to_view(const Session& session, const py::object& pose, const py::object& intrinsics) {
  return {to_pose(pose), to_intrinsics(intrinsics, session.default_intrinsics())};
}

void restore_world(Session& session, const py::dict& saved,
                   const py::array_t<uint8_t, py::array::c_style>& images) {
  const World world = to_world(saved, images.size(), session.model().manifest());
  const py::gil_scoped_release release;
  session.restore(world, images.data());
}

std::string represent(const Frame& f) {
  std::ostringstream s;
  s.precision(3);
  s << "<Frame " << f.id << ": " << f.width << "x" << f.height << ", " << f.latency * 1e3 << " ms, "
    << f.steps << " steps, support " << f.support << (f.late ? ", late" : "")
    << (f.committed ? ", committed" : "") << ">";
  return s.str();
}

void bind_errors(py::module_& m) {
  static PyObject *error, *argument, *pose, *model, *world, *device;  // live as long as the process
  const auto make = [&m](const char* name, const char* doc, const py::object& bases) {
    const std::string full = std::string("rtfm_rt.") + name;
    PyObject* type = PyErr_NewExceptionWithDoc(full.c_str(), doc, bases.ptr(), nullptr);
    if (!type) throw py::error_already_set();
    m.add_object(name, type);
    return type;
  };
  const auto base = [](PyObject* o) { return py::reinterpret_borrow<py::object>(o); };
  error = make("Error", "Anything that rtfm_rt refuses.", base(PyExc_Exception));
  argument = make("ArgumentError", "An image, `out`, intrinsics or an option that does not fit.",
                  py::make_tuple(base(error), base(PyExc_ValueError)));
  pose =
      make("PoseError", "A pose that is not finite, rigid or of the right shape.", base(argument));
  model = make("ModelError", "A model file that cannot be read, or is not one.", base(error));
  world = make("WorldError", "A session that is not in a state for the call.", base(error));
  device = make("DeviceError", "A device that is unknown or missing here.", base(error));
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const PoseError& e) {
      py::set_error(pose, e.what());
    } catch (const ArgumentError& e) {
      py::set_error(argument, e.what());
    } catch (const ModelError& e) {
      py::set_error(model, e.what());
    } catch (const WorldError& e) {
      py::set_error(world, e.what());
    } catch (const DeviceError& e) {
      py::set_error(device, e.what());
    } catch (const BackendError& e) {
      py::set_error(device, e.what());
    } catch (const Error& e) {
      py::set_error(error, e.what());
    }
  });
}

void bind_frame(py::module_& m) {
  py::class_<Frame>(
      m, "Frame", py::buffer_protocol(),
      "One image and its receipt. `np.asarray(frame)` is uint8 (height, width, 3) RGB "
      "without a copy; torch.from_dlpack(frame) too.")
      .def_buffer([](Frame& f) {
        return py::buffer_info(f.pixels->data(), {f.height, f.width, 3}, {f.width * 3, 3, 1});
      })
      .def(
          "__dlpack__",
          [](const py::object& self, const py::kwargs& kwargs) {
            return py::array(self).attr("__dlpack__")(**kwargs);
          },
          "A DLPack capsule of the pixels, on the CPU, sharing memory.")
      .def("__dlpack_device__", [](const Frame&) { return py::make_tuple(1, 0); })
      .def_property_readonly("shape",
                             [](const Frame& f) { return py::make_tuple(f.height, f.width, 3); })
      .def_property_readonly(
          "pose", [](const Frame& f) { return from_pose(f.view.pose); },
          "Camera-to-world (4, 4) float64, as given to step().")
      .def_property_readonly(
          "intrinsics",
          [](const Frame& f) { return py::make_tuple(f.view.intrinsics.fx, f.view.intrinsics.fy); },
          "(fx, fy) in units of image width and height.")
      .def_readonly("id", &Frame::id, "Position in the session's sequence of frames.")
      .def_readonly("latency", &Frame::latency, "Seconds from the call to the finished frame.")
      .def_readonly("steps", &Frame::steps, "Denoising steps taken.")
      .def_property_readonly(
          "context",
          [](const Frame& f) {
            return std::vector<int64_t>(f.context.begin(), f.context.begin() + f.context_size);
          },
          "Ids of the remembered frames that it attended to.")
      .def_readonly("support", &Frame::support,
                    "Share of the view that the context has seen, 0 (invented) to 1 (remembered).")
      .def_readonly("late", &Frame::late, "Whether the deadline had passed when it was finished.")
      .def_readonly("committed", &Frame::committed, "Whether it became part of the world.")
      .def(
          "reproject",
          [](const Frame& f, const py::object& pose) { return f.reproject(to_pose(pose)); },
          "pose"_a, "This frame as a camera turned to `pose` would see it; positions are not used.")
      .def("__repr__", &represent);
}

void bind_model(py::module_& m) {
  py::class_<Model, std::shared_ptr<Model>>(m, "Model")
      .def(py::init([](const std::string& path, const std::string& device,
                       const std::string& precision) {
             const py::gil_scoped_release release;
             return std::make_shared<Model>(path, device, precision);
           }),
           "path"_a, "device"_a = "auto", "precision"_a = "auto")
      .def_property_readonly("path", &Model::path)
      .def_property_readonly(
          "manifest", [](const Model& self) { return parse_json(self.manifest_json()); },
          "The manifest of the model file, a dict.")
      .def_property_readonly("device", &Model::device)
      .def_property_readonly("precision", &Model::precision)
      .def_property_readonly("parameters", &Model::parameters);
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
            if (py::isinstance<py::int_>(ids))
              return self.session->update_poses({ids.cast<int64_t>()}, {to_pose(poses)});
            const auto many = to_option<std::vector<int64_t>>(ids, "ids", "an id or several");
            std::vector<Pose> moved;
            for (const py::handle& pose : poses)
              moved.push_back(to_pose(py::cast<py::object>(pose)));
            self.session->update_poses(many.value_or(std::vector<int64_t>{}), moved);
          },
          "ids"_a, "poses"_a,
          "Moves a remembered frame, or several with as many poses, as after a loop closure. All "
          "or "
          "none; nothing is encoded again.");
}

void bind_session(py::module_& m) {
  py::class_<Session, std::shared_ptr<Session>>(m, "Session")
      .def(py::init([](Session& parent) {
             const py::gil_scoped_release release;
             return parent.fork();
           }),
           "parent"_a, "A branch of another session's world.")
      .def(py::init(&make_session), "model"_a, py::kw_only(), "device"_a = "auto",
           "precision"_a = "auto", "threads"_a = py::none(), "seed"_a = 0, "context"_a = py::none(),
           "steps"_a = py::none(), "memory_budget"_a = py::none(), "deadline"_a = py::none(),
           "commit_below"_a = py::none(), "sinks"_a = py::none(), "recent"_a = py::none())
      .def(
          "observe",
          [](Session& self, const py::object& image, const py::object& pose,
             const py::object& intrinsics) {
            const View view = to_view(self, pose, intrinsics);
            const auto pixels = to_image(image, self.model().manifest());
            const py::gil_scoped_release release;
            return self.observe(pixels.data(), view);
          },
          "image"_a, "pose"_a, py::kw_only(), "intrinsics"_a = py::none(),
          "A real frame enters the world: uint8 (height, width, 3) RGB seen from `pose`. Returns "
          "its id.")
      .def(
          "step",
          [](Session& self, const py::object& pose, const py::object& intrinsics,
             const py::object& deadline, const py::object& out) {
            const View view = to_view(self, pose, intrinsics);
            const auto seconds = to_option<double>(deadline, "deadline", "seconds");
            uint8_t* pixels = to_output(out, self.model().manifest());
            const py::gil_scoped_release release;
            return self.step(view, seconds, pixels);
          },
          "pose"_a, py::kw_only(), "intrinsics"_a = py::none(), "deadline"_a = py::none(),
          "out"_a = py::none(),
          "The frame seen from `pose`. deadline: seconds; takes fewer denoising steps where that "
          "helps "
          "and sets `late` where it did not. out: uint8 (height, width, 3) to write to as well.")
      .def(
          "imagine",
          [](Session& self, const py::iterable& poses, const py::object& intrinsics) {
            std::vector<View> views;
            for (const py::handle& pose : poses)
              views.push_back(to_view(self, py::reinterpret_borrow<py::object>(pose), intrinsics));
            const py::gil_scoped_release release;
            std::vector<Frame> frames;
            for (const View& view : views) frames.push_back(self.imagine(view));
            return frames;
          },
          "poses"_a, py::kw_only(), "intrinsics"_a = py::none(),
          "For each pose the frame that step(pose) would return now. Nothing is committed.")
      .def(
          "_world", [](Session& self) { return from_world(self.world()); },
          "What `save` writes down, but for the images.")
      .def("_options",
           [](const Session& self) {
             const SessionOptions& o = self.options();
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
          "memory", [](const std::shared_ptr<Session>& self) { return MemoryView{self}; },
          "What the session remembers.")
      .def_property_readonly(
          "model",
          [](const Session& self) { return std::const_pointer_cast<Model>(self.shared_model()); })
      .def_property_readonly("device", &Session::device, "Where it runs: \"cpu:amx\", \"cuda:0\".")
      .def_property_readonly("precision",
                             [](const Session& self) { return self.model().precision(); })
      .def_property_readonly("threads", &Session::threads)
      .def_property_readonly("steps", &Session::steps)
      .def_property_readonly("context", [](const Session& self) { return *self.options().context; })
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

}  // namespace
}  // namespace rtfm::python

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native part of rtfm_rt.";
  m.attr("__version__") = RTFM_VERSION;
  rtfm::python::bind_errors(m);
  rtfm::python::bind_frame(m);
  rtfm::python::bind_model(m);
  rtfm::python::bind_memory(m);
  rtfm::python::bind_session(m);
  m.def("read_info", &rtfm::python::read_info, pybind11::arg("path"),
        "Reads and checks a model file; its manifest, tensors, parameters and bytes.");
}
