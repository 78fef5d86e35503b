// SPDX-License-Identifier: Apache-2.0
// The parts of the module rtfm_rt._core, and how its objects come from Python.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

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

// To the end of the scope other threads run Python. Before CPython 3.14, an interpreter that ends
// stops a thread that takes the GIL back by pthread_exit, whose unwinding aborts at a destructor:
// it is caught and the thread waits for the end of the process, as 3.14 itself has it. (To ask
// before, whether the interpreter ends, would not do: it may while the thread waits for the GIL.)
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      while (true) pause();
    }
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
