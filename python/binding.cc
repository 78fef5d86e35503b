// SPDX-License-Identifier: Apache-2.0
// The module rtfm_rt._core: argument checks, the GIL and docstrings over src/session.h.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <sstream>

#include "python/bindings.h"
#include "python/convert.h"
#include "python/dlpack.h"
#include "src/model.h"
#include "src/session.h"

namespace rtfm::python {
namespace {

using namespace py::literals;

py::object parse_json(const std::string& json) {
  return py::module_::import("json").attr("loads")(json);
}

py::dict read_info(const py::object& any_path) {
  const std::string path = to_path<ModelError>(any_path, "path");
  const ModelFile file = [&] {
    const WithoutGil released;
    ModelFile checked = load_model_file(path);
    checked.weights.check_numbers();
    return checked;
  }();
  return py::dict("manifest"_a = parse_json(file.manifest_json),
                  "tensors"_a = file.weights.tensors().size(), "parameters"_a = file.parameters,
                  "bytes"_a = file.weights.file_bytes());
}

std::string represent(const Frame& f) {
  std::ostringstream s;
  s.precision(3);
  s << "<Frame " << f.id << ": " << f.width << "x" << f.height << ", " << f.latency * 1e3 << " ms, "
    << f.steps << " steps, support " << f.support << (f.late ? ", late" : "")
    << (f.committed ? ", committed" : "") << ">";
  return s.str();
}

// Messages name files, whose bytes are not UTF-8 everywhere; those that are not become \xff.
void set_error(PyObject* type, const char* what) {
  const auto message = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(what, py::ssize_t(std::strlen(what)), "backslashreplace"));
  if (message) PyErr_SetObject(type, message.ptr());  // else the error is that of decoding
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
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const PoseError& e) {
      set_error(pose, e.what());
    } catch (const ArgumentError& e) {
      set_error(argument, e.what());
    } catch (const ModelError& e) {
      set_error(model, e.what());
    } catch (const WorldError& e) {
      set_error(world, e.what());
    } catch (const DeviceError& e) {
      set_error(device, e.what());
    } catch (const BackendError& e) {
      set_error(device, e.what());
    } catch (const Error& e) {
      set_error(error, e.what());
    }
  });
}

void bind_frame(py::module_& m) {
  py::class_<Frame>(
      m, "Frame", py::buffer_protocol(),
      "One image and its receipt. `np.asarray(frame)` is uint8 (height, width, 3) RGB without a "
      "copy; torch.from_dlpack(frame) too. Frames of a session with a stream lie on its GPU: "
      "torch.from_dlpack(frame) and what takes __cuda_array_interface__ find them there, and "
      "NumPy gets a copy.")
      .def_buffer([](Frame& f) {
        return py::buffer_info(f.image(), {f.height, f.width, 3}, {f.width * 3, 3, 1});
      })
      .def(
          "__dlpack__",
          [](const py::object& self, const py::kwargs& kwargs) -> py::object {
            const Frame& f = self.cast<const Frame&>();
            if (stays_on_device(f, kwargs)) return to_dlpack(f, kwargs);
            return py::array(self).attr("__dlpack__")(**kwargs);
          },
          "A DLPack capsule of the pixels, where they are, sharing memory.")
      .def("__dlpack_device__",
           [](const Frame& f) {
             return f.pixels->on_device() ? py::make_tuple(kDlCuda, f.pixels->ordinal())
                                          : py::make_tuple(kDlCpu, 0);
           })
      .def_property_readonly(
          "__cuda_array_interface__", &to_cuda_array,
          "The pixels on the GPU, version 3; no attribute of frames in host memory.")
      .def_property_readonly(
          "images",
          [](const py::object& self) {
            const Frame& f = self.cast<const Frame&>();
            return py::array_t<uint8_t>({f.images, f.height, f.width, 3}, f.pixels->data(), self);
          },
          "All images of the frame, uint8 (n, height, width, 3), the latest last: some models make "
          "several at once.")
      .def_property_readonly("shape",
                             [](const Frame& f) { return py::make_tuple(f.height, f.width, 3); })
      .def_property_readonly(
          "pose", [](const Frame& f) { return from_pose(f.view.pose); },
          "Camera-to-world (4, 4) float64: where it is seen from, and remembered.")
      .def_property_readonly(
          "intrinsics",
          [](const Frame& f) { return py::make_tuple(f.view.intrinsics.fx, f.view.intrinsics.fy); },
          "(fx, fy) in units of image width and height.")
      .def_readonly("id", &Frame::id, "Position in the session's sequence of frames.")
      .def_readonly("latency", &Frame::latency,
                    "Seconds that the step took; not what a ticket waited in line.")
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
          [](const Frame& f, const py::object& pose) {
            const Pose turned = to_pose(pose);
            const WithoutGil released;
            return f.reproject(turned);
          },
          "pose"_a, "This frame as a camera turned to `pose` would see it; positions are not used.")
      .def("__repr__", &represent);
}

void bind_model(py::module_& m) {
  py::class_<Model, std::shared_ptr<Model>>(m, "Model")
      .def(py::init([](const py::object& any_path, const py::object& any_device,
                       const py::object& any_precision, const py::object& any_cublas) {
             const auto path = to_path<ModelError>(any_path, "path");
             const auto cublas = to_path<ArgumentError>(any_cublas, "cublas");
             const std::string device = to_name(any_device, "device");
             const std::string precision = to_name(any_precision, "precision");
             const WithoutGil released;
             return std::make_shared<Model>(path, device, precision, cublas);
           }),
           "path"_a, "device"_a = "auto", "precision"_a = "auto", "cublas"_a = "")
      .def_property_readonly("path", [](const Model& self) { return from_path(self.path()); })
      .def_property_readonly(
          "manifest", [](const Model& self) { return parse_json(self.manifest_json()); },
          "The manifest of the model file, a dict.")
      .def_property_readonly("device", &Model::device)
      .def_property_readonly("precision", &Model::precision)
      .def_property_readonly(
          "cublas", [](const Model& self) { return from_path(self.backend()->cublas()); },
          "The cuBLASLt that multiplies, or why the one that was found does not; \"\" for none.")
      .def_property_readonly("parameters", &Model::parameters);
}

}  // namespace
}  // namespace rtfm::python

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native part of rtfm_rt.";
  m.attr("__version__") = RTFM_VERSION;
  rtfm::python::bind_errors(m);
  rtfm::python::bind_frame(m);
  rtfm::python::bind_model(m);
  rtfm::python::bind_session(m);
  m.def("cuda_devices", &rtfm::cuda_devices, "How many GPUs answer.");
  m.def("read_info", &rtfm::python::read_info, pybind11::arg("path"),
        "Reads and checks a model file; its manifest, tensors, parameters and bytes.");
}
