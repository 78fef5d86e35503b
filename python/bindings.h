// SPDX-License-Identifier: Apache-2.0
// The parts of the module rtfm_rt._core.
#pragma once

#include <pybind11/pybind11.h>

namespace rtfm::python {

void bind_session(pybind11::module_& m);  // Memory, PoseSlot and Session

}  // namespace rtfm::python
