// SPDX-License-Identifier: Apache-2.0
// Frames on a GPU as other libraries take them: DLPack (dmlc.github.io/dlpack) and the CUDA array
// interface. They are finished, so that no stream needs to wait for them.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string_view>
#include <utility>

#include "src/frame.h"

namespace rtfm::python {

namespace py = pybind11;

// ---- The structs of dlpack.h, version 1.

constexpr int32_t kDlCpu = 1, kDlCuda = 2;
constexpr uint8_t kDlUnsigned = 1;

struct DlTensor {
  void* data;
  int32_t device_type, device;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};
struct DlManaged {  // "dltensor"
  DlTensor tensor;
  void* owner;
  void (*deleter)(DlManaged*);
};
struct DlVersioned {  // "dltensor_versioned"
  uint32_t major, minor;
  void* owner;
  void (*deleter)(DlVersioned*);
  uint64_t flags;
  DlTensor tensor;
};

// ---- A capsule that keeps the pixels, whatever becomes of the frame and its session.

template <class Managed>
struct Export {
  Managed managed{};
  std::shared_ptr<Pixels> pixels;
  int64_t shape[3], strides[3];

  explicit Export(const Frame& f)
      : pixels(f.pixels), shape{f.height, f.width, 3}, strides{int64_t{3} * f.width, 3, 1} {
    managed.owner = this;
    managed.deleter = [](Managed* m) { delete static_cast<Export*>(m->owner); };
    managed.tensor = {.data = const_cast<std::byte*>(pixels->on_device()),
                      .device_type = kDlCuda,
                      .device = pixels->ordinal(),
                      .ndim = 3,
                      .code = kDlUnsigned,
                      .bits = 8,
                      .lanes = 1,
                      .shape = shape,
                      .strides = strides,
                      .byte_offset = f.image_offset()};
  }
};

// Whoever takes the capsule renames it and calls the deleter later; if nobody does, it is done
// here.
template <class Managed>
py::object capsule(std::unique_ptr<Export<Managed>> made, const char* name) {
  const auto drop = [](PyObject* object) {
    const char* name = PyCapsule_GetName(object);
    if (name && std::string_view(name).starts_with("used_")) return;
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(object, name));
    managed->deleter(managed);
  };
  PyObject* object = PyCapsule_New(&made->managed, name, drop);
  if (!object) throw py::error_already_set();
  made.release();
  return py::reinterpret_steal<py::object>(object);
}

// What a consumer asked for by a keyword of __dlpack__; None if it did not.
inline py::object asked(const py::kwargs& kwargs, const char* name) {
  return kwargs.contains(name) ? py::object(kwargs[name]) : py::none();
}

// Whether a capsule of the frame is to be on the GPU where it is. BufferError for one elsewhere, or
// for what it would take a copy where none may be made.
inline bool stays_on_device(const Frame& f, const py::kwargs& kwargs) {
  if (!f.pixels->on_device()) return false;
  const py::object wanted = asked(kwargs, "dl_device");
  const auto is = [&](int32_t type, int number) {
    return wanted.equal(py::make_tuple(type, number));
  };
  const bool here = wanted.is_none() || is(kDlCuda, f.pixels->ordinal());
  const py::object copy = asked(kwargs, "copy");
  if (here ? copy.equal(py::bool_(true)) : copy.equal(py::bool_(false)))
    throw py::buffer_error(here ? "copy: expected None or False, got True; copy the result"
                                : "copy: expected None or True for a frame that is on a GPU, got "
                                  "False");
  if (!here && !is(kDlCpu, 0))
    throw py::buffer_error("dl_device: expected the frame's own device or (1, 0), the CPU");
  return here;
}

inline py::object to_dlpack(const Frame& f, const py::kwargs& kwargs) {
  const py::object most = asked(kwargs, "max_version");
  if (most.is_none() || most[py::int_(0)].cast<int>() < 1)
    return capsule(std::make_unique<Export<DlManaged>>(f), "dltensor");
  auto made = std::make_unique<Export<DlVersioned>>(f);
  made->managed.major = 1;
  return capsule(std::move(made), "dltensor_versioned");
}

inline py::dict to_cuda_array(const Frame& f) {
  using namespace py::literals;
  if (!f.pixels->on_device())
    throw py::attribute_error("__cuda_array_interface__: this frame is in host memory");
  const auto address = reinterpret_cast<uintptr_t>(f.pixels->on_device()) + f.image_offset();
  return py::dict("shape"_a = py::make_tuple(f.height, f.width, 3), "typestr"_a = "|u1",
                  "data"_a = py::make_tuple(address, false), "strides"_a = py::none(),
                  "stream"_a = py::none(), "version"_a = 3);
}

}  // namespace rtfm::python
