// SPDX-License-Identifier: Apache-2.0
// The parts of the module rtfm_rt._core, and how its objects come from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "src/check.h"
#include "src/frame.h"
#include "src/model.h"
#include "src/pose_slot.h"
#include "src/session.h"

namespace rtfm::python {

namespace py = pybind11;

void bind_session(py::module_& m);  // Memory, PoseSlot and Session

// f(), which takes the GIL back or runs Python. Before CPython 3.14, an interpreter that ends stops
// such threads by pthread_exit, whose unwinding aborts at a destructor and drops references without
// the GIL: it is caught and the thread waits for the end of the process, as 3.14 itself has it. (To
// ask before, whether the interpreter ends, would not do: it may while the thread waits.)
template <class F>
auto to_the_end(F&& f) {
  try {
    return f();
  } catch (const std::exception&) {
    throw;
  } catch (...) {
    while (true) pause();
  }
}

// To the end of the scope other threads run Python.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    to_the_end([this] { PyEval_RestoreThread(state_); });
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

struct MemoryView {  // what Python calls Memory
  std::shared_ptr<Session> session;
};

// pybind11 hands out memory that nothing was made in where __init__ has not run or has raised: in a
// subclass that comes before super().__init__(), or in the __del__ of one that could not be made.
template <class T>
struct MadeCaster : py::detail::type_caster_base<T> {
  bool load(py::handle object, bool convert) {
    return this->template load_impl<MadeCaster>(object, convert);
  }
  void load_value(py::detail::value_and_holder&& held) {
    if (!held.holder_constructed())
      fail<WorldError>(std::string(py::str(py::type::of<T>().attr("__name__"))),
                       ": expected one that is made, got one whose __init__ has not run or has "
                       "failed; call super().__init__(...) first");
    py::detail::type_caster_base<T>::load_value(std::move(held));
  }
};

// f(object) for each of an iterable.
template <class F>
void for_each(const py::object& iterable, F&& f) {
  const auto iterator = py::reinterpret_steal<py::object>(PyObject_GetIter(iterable.ptr()));
  if (!iterator) throw py::error_already_set();
  while (PyObject* next = to_the_end([&] { return PyIter_Next(iterator.ptr()); }))
    f(py::reinterpret_steal<py::object>(next));
  if (PyErr_Occurred()) throw py::error_already_set();
}

// The owner's share of an object, which a cast of its holder would not check.
template <class T>
std::shared_ptr<T> share(const py::object& object) {
  object.cast<T&>();
  return object.cast<std::shared_ptr<T>>();
}

}  // namespace rtfm::python

namespace pybind11::detail {

template <>
struct type_caster<rtfm::Frame> : rtfm::python::MadeCaster<rtfm::Frame> {};
template <>
struct type_caster<rtfm::Model> : rtfm::python::MadeCaster<rtfm::Model> {};
template <>
struct type_caster<rtfm::PoseSlot> : rtfm::python::MadeCaster<rtfm::PoseSlot> {};
template <>
struct type_caster<rtfm::Session> : rtfm::python::MadeCaster<rtfm::Session> {};
template <>
struct type_caster<rtfm::python::MemoryView> : rtfm::python::MadeCaster<rtfm::python::MemoryView> {
};

}  // namespace pybind11::detail
