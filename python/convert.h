// SPDX-License-Identifier: Apache-2.0
// From Python's arguments to the runtime's, refusing what does not fit.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "python/bindings.h"
#include "src/check.h"
#include "src/sequence.h"
#include "src/session.h"

namespace rtfm::python {

namespace py = pybind11;

inline std::string describe(const py::handle& object) {
  if (py::isinstance<py::array>(object)) {
    const py::array a = py::reinterpret_borrow<py::array>(object);
    return "an array of " + std::string(py::str(a.dtype())) + " " +
           std::string(py::str(a.attr("shape")));
  }
  return "a " + std::string(py::str(py::type::handle_of(object).attr("__name__")));
}

// What NumPy makes of an object, or none and, in `why`, what it says against it. What is no
// Exception goes on: Ctrl-C while an __array__ runs.
template <class Array = py::array>
std::optional<Array> to_array(const py::object& object, std::string& why) {
  try {
    return to_the_end([&] { return Array(object); });
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
    why = " (" + std::string(py::str(error.value())) + ")";
    return std::nullopt;
  }
}

// By kind and size: a dtype that was pickled is another object than NumPy's own.
inline bool is_uint8(const py::array& a) { return a.dtype().kind() == 'u' && a.itemsize() == 1; }

// A (4, 4) array of real numbers, or anything that NumPy makes one of.
inline Pose to_pose(const py::object& object) {
  std::string why;
  const auto any = to_array(object, why);
  if (!any || std::string_view("fiu").find(any->dtype().kind()) == std::string_view::npos ||
      any->ndim() != 2 || any->shape(0) != 4 || any->shape(1) != 4)
    fail<PoseError>("pose: expected a (4, 4) camera-to-world matrix of numbers, got ",
                    describe(any ? *any : object), why);
  const auto matrix = py::array_t<double, py::array::c_style | py::array::forcecast>(*any);
  return Pose::from_matrix(matrix.data());
}

inline Intrinsics to_intrinsics(const py::object& object, const Intrinsics& otherwise) {
  if (object.is_none()) return otherwise;
  try {
    const auto [fx, fy] = object.cast<std::pair<double, double>>();
    const Intrinsics k{fx, fy};
    check_intrinsics(k);
    return k;
  } catch (const py::cast_error&) {
    fail<ArgumentError>("intrinsics: expected (fx, fy) in units of image width and height, got ",
                        describe(object));
  }
}

// One value for each action of the manifest. object: a mapping of names to numbers, the others
// being 0, or an array with all of them.
inline std::vector<float> to_actions(const py::object& object, const Manifest& m) {
  const std::vector<Action>& known = m.actions;
  check<ArgumentError>(!known.empty(), "action: expected none, since ", m.name,
                       " goes by poses, got ", describe(object));
  std::vector<float> values(known.size());
  if (!py::hasattr(object, "keys")) {  // by which dict() knows a mapping
    using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
    std::string why;
    const auto given = to_array<Floats>(object, why);
    if (!given || given->ndim() != 1 || given->size() != py::ssize_t(known.size()))
      fail<ArgumentError>("action: expected a dict of names and numbers, or ", known.size(),
                          " numbers, got ", describe(given ? *given : object), why);
    std::copy_n(given->data(), given->size(), values.begin());
    return values;
  }
  for (const auto& [key, value] : py::dict(object)) {
    const std::string name = py::str(key);
    const size_t i = find_action(m, name);
    try {
      values[i] = float(value.cast<double>());
    } catch (const py::cast_error&) {
      fail<ArgumentError>("action: expected a number for ", name, ", got ",
                          describe(py::reinterpret_borrow<py::object>(value)));
    }
  }
  return values;
}

// What an object's __cuda_stream__ says: (0, a cudaStream_t as a number).
inline std::optional<uint64_t> to_stream(const py::object& object) {
  if (object.is_none()) return std::nullopt;
  check<ArgumentError>(py::hasattr(object, "__cuda_stream__"),
                       "stream: expected an object with __cuda_stream__, such as a stream of "
                       "PyTorch or cuda.core, got ",
                       describe(object));
  try {
    const auto [version, stream] =
        object.attr("__cuda_stream__")().cast<std::pair<int64_t, uint64_t>>();
    check<ArgumentError>(version == 0, "stream: expected version 0 of __cuda_stream__, got ",
                         version);
    return stream;
  } catch (const py::cast_error&) {
    fail<ArgumentError>("stream: expected __cuda_stream__() to give (0, a number), got something ",
                        "else from ", describe(object));
  }
}

// image: uint8 (height, width, 3); a copy only if it is not contiguous
inline py::array_t<uint8_t, py::array::c_style> to_image(const py::object& object,
                                                         const Manifest& m) {
  std::string why;
  const auto any = to_array(object, why);
  if (!any || !is_uint8(*any) || any->ndim() != 3 || any->shape(0) != m.image_height ||
      any->shape(1) != m.image_width || any->shape(2) != 3)
    fail<ArgumentError>("image: expected an array of uint8 (", m.image_height, ", ", m.image_width,
                        ", 3) RGB, got ", describe(any ? *any : object), why);
  return *any;
}

// The memory that `out` lends, or null for None.
inline uint8_t* to_output(const py::object& object, const Manifest& m) {
  if (object.is_none()) return nullptr;
  const bool array = py::isinstance<py::array>(object);
  const py::array out = array ? py::reinterpret_borrow<py::array>(object) : py::array();
  check<ArgumentError>(
      array && is_uint8(out) && out.ndim() == 3 && out.shape(0) == m.image_height &&
          out.shape(1) == m.image_width && out.shape(2) == 3 && out.writeable() &&
          (out.flags() & py::array::c_style),
      "out: expected a writable C-contiguous array of uint8 (", m.image_height, ", ", m.image_width,
      ", 3), got ", array && !out.writeable() ? "a read-only one, " : "",
      array && !(out.flags() & py::array::c_style) ? "a strided one, " : "", describe(object));
  return static_cast<uint8_t*>(const_cast<void*>(out.data()));
}

template <class T>
std::optional<T> to_option(const py::object& object, const char* name, const char* expected) {
  if (object.is_none()) return std::nullopt;
  try {
    return object.cast<T>();
  } catch (const py::cast_error&) {
    fail<ArgumentError>(name, ": expected ", expected, ", got ", std::string(py::repr(object)));
  }
}

// A device or a precision.
inline std::string to_name(const py::object& object, const char* name) {
  const char* expected = "a name such as 'auto'";
  const auto text = to_option<std::string>(object, name, expected);
  check<ArgumentError>(text.has_value(), name, ": expected ", expected, ", got None");
  return *text;
}

// The name of a file, from a str, bytes or a PathLike: the bytes that the system takes. Throws E
// for one with a NUL, or that is none.
template <class E>
std::string to_path(const py::object& object, const char* name) {
  PyObject* bytes = nullptr;
  if (PyUnicode_FSConverter(object.ptr(), &bytes)) return py::reinterpret_steal<py::bytes>(bytes);
  const py::error_already_set error;
  if (error.matches(PyExc_ValueError) || error.matches(PyExc_TypeError))
    fail<E>(name, ": expected the name of a file, got ", std::string(py::repr(object)), ": ",
            std::string(py::str(error.value())));
  throw error;
}

inline py::str from_path(const std::string& path) {
  PyObject* text = PyUnicode_DecodeFSDefaultAndSize(path.data(), py::ssize_t(path.size()));
  if (!text) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(text);
}

inline py::array_t<double> from_pose(const Pose& pose) {
  const std::array<double, 16> m = pose.matrix();
  return py::array_t<double>({4, 4}, m.data());
}

// ids, by_use, with_page: int64; poses (n, 4, 4) and intrinsics (n, 2): float64; page_dtype: a name
// or None
inline py::dict from_world(const World& w) {
  const auto count = py::ssize_t(w.ids.size());
  py::array_t<double> poses({count, py::ssize_t(4), py::ssize_t(4)});
  py::array_t<double> intrinsics({count, py::ssize_t(2)});
  for (py::ssize_t i = 0; i < count; ++i) {
    const View& view = w.views[size_t(i)];
    const std::array<double, 16> matrix = view.pose.matrix();
    std::copy(matrix.begin(), matrix.end(), poses.mutable_data(i));
    *intrinsics.mutable_data(i, 0) = view.intrinsics.fx;
    *intrinsics.mutable_data(i, 1) = view.intrinsics.fy;
  }
  const auto array = [](const std::vector<int64_t>& v) {
    return py::array_t<int64_t>(py::ssize_t(v.size()), v.data());
  };
  const auto pose = [](const std::optional<Pose>& p) {
    return p ? py::object(from_pose(*p)) : py::none();
  };
  py::dict saved;
  saved["next_id"] = w.next_id;
  saved["last_pose"] = pose(w.last_pose), saved["origin"] = pose(w.origin);
  saved["ids"] = array(w.ids), saved["by_use"] = array(w.by_use);
  saved["with_page"] = array(w.with_page);
  saved["poses"] = poses, saved["intrinsics"] = intrinsics;
  saved["page_dtype"] = w.page_dtype.empty() ? py::object(py::none()) : py::str(w.page_dtype);
  return saved;
}

// pages, where page_dtype is not None: a list of bytes, which the world refers to.
inline World to_world(const py::dict& saved, py::ssize_t image_values, const Manifest& m) {
  using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
  World w;
  w.next_id = saved["next_id"].cast<int64_t>();
  if (!saved["last_pose"].is_none()) w.last_pose = to_pose(saved["last_pose"]);
  if (!saved["origin"].is_none()) w.origin = to_pose(saved["origin"]);
  w.ids = saved["ids"].cast<std::vector<int64_t>>();
  w.by_use = saved["by_use"].cast<std::vector<int64_t>>();
  w.with_page = saved["with_page"].cast<std::vector<int64_t>>();
  if (!saved["page_dtype"].is_none()) {
    w.page_dtype = saved["page_dtype"].cast<std::string>();
    for (const py::handle& page : saved["pages"]) {
      const auto bytes = page.cast<std::string_view>();
      w.pages.push_back(std::as_bytes(std::span(bytes.data(), bytes.size())));
    }
  }
  const auto poses = saved["poses"].cast<Doubles>(),
             intrinsics = saved["intrinsics"].cast<Doubles>();
  const auto count = py::ssize_t(w.ids.size());
  check<WorldError>(poses.size() == count * 16 && intrinsics.size() == count * 2 &&
                        image_values == count * m.image_height * m.image_width * 3,
                    "restore: expected a pose, intrinsics and an image of ", m.image_height, "x",
                    m.image_width, " for each of ", count, " frames");
  for (py::ssize_t i = 0; i < count; ++i)
    w.views.push_back({Pose::from_matrix(poses.data() + i * 16),
                       {intrinsics.data()[i * 2], intrinsics.data()[i * 2 + 1]}});
  return w;
}

}  // namespace rtfm::python
