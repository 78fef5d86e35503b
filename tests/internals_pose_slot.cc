// SPDX-License-Identifier: Apache-2.0
// Threads that write poses to a slot as fast as they can, and what a reader sees meanwhile.
#include <pybind11/pybind11.h>

#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "src/pose_slot.h"

namespace py = pybind11;
using namespace rtfm;

namespace {

// Every number of a writer's n-th pose is n, plus a half for the second writer.
Pose numbered(double n) {
  Pose pose;
  pose.rotation.fill(n);
  pose.position.fill(n);
  return pose;
}

struct Seen {
  int64_t torn = 0, backwards = 0, changes = 0;
};

Seen watch(const PoseSlot& slot, int writers, int64_t changes) {
  Seen seen;
  double before = 0, last[2] = {};
  while (seen.changes < changes) {
    const Pose pose = slot.read();
    const double n = pose.rotation[0];
    for (const double value : pose.rotation) seen.torn += value != n;
    for (const double value : pose.position) seen.torn += value != n;
    double& newest = last[writers == 2 && n != std::floor(n)];
    seen.backwards += n < newest;
    newest = n;
    seen.changes += n != before;
    before = n;
  }
  return seen;
}

// Until the reader has seen `changes` poses.
py::dict hammer(int writers, int64_t changes) {
  const py::gil_scoped_release release;
  PoseSlot slot(numbered(0));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < writers; ++i)
    threads.emplace_back([&, i] {
      for (double n = 1; !stop; ++n) slot.write(numbered(n + i / 2.0));
    });
  const Seen seen = watch(slot, writers, changes);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  const py::gil_scoped_acquire acquire;
  using namespace py::literals;
  return py::dict("torn"_a = seen.torn, "backwards"_a = seen.backwards, "changes"_a = seen.changes);
}

}  // namespace

void bind_pose_slot(py::module_& m) {
  m.def("hammer_pose_slot", &hammer, py::arg("writers"), py::arg("changes"));
}
