// SPDX-License-Identifier: Apache-2.0
// The module rtfm_rt._testing: single ops, single passes and allocation counts for the tests. Built
// with RTFM_TESTING=ON only, never part of a wheel.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "csrc/cpu/cpu_info.h"
#include "src/check.h"
#include "src/model.h"
#include "src/session.h"

namespace py = pybind11;
using namespace rtfm;

// ---- Every allocation of this module's own copy of the runtime: `new` below, malloc, calloc and
// mmap by the linker's --wrap (CMakeLists.txt).
static std::atomic<int64_t> allocations{0}, allocated{0};  // how many, bytes
static std::atomic<int64_t> refused{0};                    // the one that fails, 0: none

static bool granted(size_t bytes) {
  allocated += int64_t(bytes);
  return ++allocations != refused;
}

// Of those from now on the nth fails, once; 0: none.
void refuse_allocation(int64_t nth) { refused = nth ? allocations + nth : 0; }

extern "C" {
void* __real_malloc(size_t);
void* __real_calloc(size_t, size_t);
void* __real_mmap(void*, size_t, int, int, int, off_t);
void* __wrap_malloc(size_t bytes) { return granted(bytes) ? __real_malloc(bytes) : nullptr; }
void* __wrap_calloc(size_t n, size_t bytes) {
  return granted(n * bytes) ? __real_calloc(n, bytes) : nullptr;
}
void* __wrap_mmap(void* at, size_t bytes, int protection, int flags, int file, off_t offset) {
  return granted(bytes) ? __real_mmap(at, bytes, protection, flags, file, offset) : MAP_FAILED;
}
}
void* operator new(size_t bytes) {
  void* memory = granted(bytes) ? __real_malloc(bytes ? bytes : 1) : nullptr;
  if (!memory) throw std::bad_alloc();
  return memory;
}
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

void bind_cache(py::module_& m);        // internals_cache.cc
void bind_causal_dit(py::module_& m);   // internals_causal_dit.cc
void bind_cuda(py::module_& m);         // internals_cuda.cc
void bind_dual_stream(py::module_& m);  // internals_dual_stream.cc
void bind_latent(py::module_& m);       // internals_latent.cc
void bind_ops(py::module_& m);          // internals_ops.cc
void bind_passes(py::module_& m);       // internals_passes.cc
void bind_pose_slot(py::module_& m);    // internals_pose_slot.cc
void bind_time(py::module_& m);         // internals_time.cc
void bind_world_file(py::module_& m);   // internals_world_file.cc
void bind_write_pass(py::module_& m);   // internals_write_pass.cc

namespace {

using Image = py::array_t<uint8_t, py::array::c_style>;

// Allocations of `steps` steps along `poses` after one warm-up round, with and without `out`.
int64_t allocations_of_walk(const std::string& path, const std::string& device, const Image& image,
                            const py::array_t<double, py::array::c_style>& poses, int64_t budget) {
  SessionOptions options;
  options.memory_budget = budget;
  options.commit_below = 2.0;  // every frame is committed, so that eviction is part of the walk
  Session session(std::make_shared<Model>(path, device, "auto"), options);
  std::vector<View> views;
  for (int64_t i = 0; i < poses.shape(0); ++i)
    views.push_back({Pose::from_matrix(poses.data(i)), session.default_intrinsics()});
  std::vector<uint8_t> out(size_t(image.size()));
  PoseSlot slot(views[0].pose);
  session.observe(image.data(), views[0]);
  for (const View& view : views) session.step(view);
  const int64_t before = allocations;
  for (const View& view : views) {
    session.step(view);
    session.step(view, 1e-4, out.data());
    slot.write(view.pose);
    session.step(slot, view.intrinsics);
    session.observe(image.data(), view);
  }
  return allocations - before;
}

// Allocations of `steps` steps by actions after twice as many to warm up, with and without `out`.
int64_t allocations_of_actions(const std::string& path, const std::string& device,
                               const Image& image, int steps, int64_t budget) {
  SessionOptions options;
  options.memory_budget = budget;
  const auto model = std::make_shared<Model>(path, device, "auto");
  Session session(model, options);
  const std::vector<float> actions(model->manifest().actions.size());
  std::vector<uint8_t> out(size_t(image.size()));
  session.observe_next(image.data(), actions, {});
  int64_t before = 0;
  for (int i = 0; i < 3 * steps; ++i) {
    if (i == 2 * steps) before = allocations;
    session.act(actions, {}, i % 2 ? out.data() : nullptr);
    if (i % 3 == 0) session.observe_next(image.data(), actions, {});
  }
  return allocations - before;
}

// Of a world of `frames` frames: the bytes that it remembers, and those that a branch allocates.
std::pair<int64_t, int64_t> fork_of(const std::string& path, int frames) {
  SessionOptions options;
  options.memory_budget = 20'000'000;
  Session session(std::make_shared<Model>(path, "cpu:portable", "auto"), options);
  const std::vector<uint8_t> image(size_t(session.model().manifest().image_bytes()), 99);
  for (int i = 0; i < frames; ++i)
    session.observe(image.data(), {Pose{}, session.default_intrinsics()});
  const int64_t bytes = session.with_memory([](const Memory& m) { return m.bytes(); });
  const int64_t before = allocated;
  const std::unique_ptr<Session> branch = session.fork();
  return {bytes, allocated - before};
}

std::vector<std::string> tiers() {
  std::vector<std::string> names;
  for (const cpu::Kernels* kernels : cpu::available_tiers()) names.push_back(kernels->name);
  return names;
}

// The runtime's exceptions as the classes of rtfm_rt._core.
void translate_errors() {
  py::register_exception_translator([](std::exception_ptr thrown) {
    const auto raise = [](const char* name, const char* what) {
      py::set_error(py::module_::import("rtfm_rt").attr(name), what);
    };
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const PoseError& e) {
      raise("PoseError", e.what());
    } catch (const ArgumentError& e) {
      raise("ArgumentError", e.what());
    } catch (const ModelError& e) {
      raise("ModelError", e.what());
    } catch (const WorldError& e) {
      raise("WorldError", e.what());
    } catch (const DeviceError& e) {
      raise("DeviceError", e.what());
    } catch (const BackendError& e) {
      raise("DeviceError", e.what());
    } catch (const Error& e) {
      raise("Error", e.what());
    }
  });
}

}  // namespace

PYBIND11_MODULE(_testing, m) {
  translate_errors();
  bind_cache(m);
  bind_causal_dit(m);
  bind_cuda(m);
  bind_dual_stream(m);
  bind_latent(m);
  bind_ops(m);
  bind_passes(m);
  bind_pose_slot(m);
  bind_time(m);
  bind_world_file(m);
  bind_write_pass(m);
  m.def("tiers", &tiers);
  m.def("allocations", [] { return allocations.load(); });
  m.def("allocations_of_walk", &allocations_of_walk);
  m.def("allocations_of_actions", &allocations_of_actions);
  m.def("fork_of", &fork_of);
  py::class_<RecentCosts>(m, "RecentCosts")
      .def(py::init<>())
      .def("add", &RecentCosts::add)
      .def("expected", &RecentCosts::expected);
}
