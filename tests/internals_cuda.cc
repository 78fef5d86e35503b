// SPDX-License-Identifier: Apache-2.0
// What the emulated CUDA device does, and whole sessions on it: bound by internals.cc. Sessions of
// the shipped module know real devices only.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "csrc/cuda/e4m3.h"
#include "src/session.h"
#include "tests/cuda_emulator.h"

namespace py = pybind11;
using namespace rtfm;

namespace {

using Image = py::array_t<uint8_t, py::array::c_style>;
using Values = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Matrix4 = py::array_t<double, py::array::c_style | py::array::forcecast>;

struct Walk {
  std::unique_ptr<Session> session;
  explicit Walk(std::unique_ptr<Session> made) : session(std::move(made)) {}

  View view(const Matrix4& pose) const {
    return {Pose::from_matrix(pose.data()), session->default_intrinsics()};
  }
  static std::span<const float> span(const Values& v) { return {v.data(), size_t(v.size())}; }
  py::dict receipt(const Frame& f) const {
    Image images({f.images, f.height, f.width, 3});
    std::copy_n(f.pixels->data(), f.pixels->size(), images.mutable_data());
    const auto* ids = f.context.begin();
    const std::array<double, 16> pose = f.view.pose.matrix();
    return py::dict(py::arg("images") = images, py::arg("id") = f.id, py::arg("steps") = f.steps,
                    py::arg("pose") = py::array_t<double>({4, 4}, pose.data()),
                    py::arg("context") = std::vector<int64_t>(ids, ids + f.context_size),
                    py::arg("committed") = f.committed);
  }
  // A session that takes over the world of this one, as from a file.
  std::unique_ptr<Walk> reloaded() const {
    World world = session->world();
    std::vector<std::vector<std::byte>> pages;
    if (!world.page_dtype.empty())
      for (const int64_t id : world.with_page) pages.push_back(session->saved_page(id));
    world.pages.assign(pages.begin(), pages.end());
    const int64_t bytes = session->model().manifest().image_bytes();
    std::vector<uint8_t> images;
    session->with_memory([&](const Memory& m) {
      for (const int64_t id : world.ids) {
        const uint8_t* image = m.image(m.frames().slot_of(id));
        images.insert(images.end(), image, image + bytes);
      }
    });
    SessionOptions options;
    options.seed = session->options().seed;
    options.threads = session->options().threads;
    auto twin = std::make_unique<Session>(session->shared_model(), options);
    twin->restore(world, images.data());
    return std::make_unique<Walk>(std::move(twin));
  }
};

}  // namespace

void bind_cuda(py::module_& m) {
  py::enum_<testing::Blocks>(m, "Blocks")
      .value("serial", testing::Blocks::serial)
      .value("ascending", testing::Blocks::ascending)
      .value("descending", testing::Blocks::descending)
      .value("random", testing::Blocks::random)
      .value("unsynced", testing::Blocks::unsynced);
  py::class_<testing::CudaEmulation>(m, "CudaEmulation")
      .def_readwrite("blocks", &testing::CudaEmulation::blocks)
      .def_readwrite("found", &testing::CudaEmulation::found)
      .def_readwrite("fp8", &testing::CudaEmulation::fp8)
      .def_readwrite("memory", &testing::CudaEmulation::memory)
      .def_readwrite("launches_left", &testing::CudaEmulation::launches_left)
      .def_readwrite("cublas", &testing::CudaEmulation::cublas)
      .def_readwrite("on_wait", &testing::CudaEmulation::on_wait)
      .def_readwrite("run_stream", &testing::CudaEmulation::run_stream);
  m.def("cuda_emulation", &testing::cuda_emulation, py::return_value_policy::reference);

  m.def("to_e4m3", [](const py::array_t<float, py::array::c_style>& x) {
    py::array_t<uint8_t> q(x.size());
    std::transform(x.data(), x.data() + x.size(), q.mutable_data(), cuda::to_e4m3);
    return q;
  });

  py::class_<Walk>(m, "Session")
      .def(py::init([](const std::string& path, const std::string& device,
                       const std::string& precision, uint64_t seed,
                       std::optional<int64_t> memory_budget, std::optional<double> commit_below,
                       std::optional<int> threads, std::optional<uint64_t> stream) {
             SessionOptions options;
             options.seed = seed;
             options.threads = threads;
             options.memory_budget = memory_budget;
             options.commit_below = commit_below;
             options.stream = stream;
             const auto model = std::make_shared<Model>(path, device, precision);
             return std::make_unique<Walk>(std::make_unique<Session>(model, options));
           }),
           py::arg("path"), py::kw_only(), py::arg("device"), py::arg("precision") = "auto",
           py::arg("seed") = 0, py::arg("memory_budget") = py::none(),
           py::arg("commit_below") = py::none(), py::arg("threads") = py::none(),
           py::arg("stream") = py::none())
      .def_property_readonly("device", [](const Walk& w) { return w.session->device(); })
      .def_property_readonly("precision",
                             [](const Walk& w) { return w.session->model().precision(); })
      .def_property_readonly(
          "ids",
          [](Walk& w) {
            return w.session->with_memory([](const Memory& m) { return m.frames().ids(); });
          })
      .def_property_readonly("poses",
                             [](Walk& w) {
                               return w.session->with_memory([](const Memory& m) {
                                 std::vector<std::array<double, 16>> poses;
                                 for (const int64_t id : m.frames().ids())
                                   poses.push_back(m.frames().view_of(id).pose.matrix());
                                 return poses;
                               });
                             })
      .def("observe",
           [](Walk& w, const Image& image, const Matrix4& pose) {
             return w.session->observe(image.data(), w.view(pose));
           })
      .def("observe_next",
           [](Walk& w, const Image& image, const Values& actions) {
             return w.session->observe_next(image.data(), Walk::span(actions), std::nullopt);
           })
      .def("act",
           [](Walk& w, const Values& actions) {
             return w.receipt(w.session->act(Walk::span(actions)));
           })
      .def("imagine_act",
           [](Walk& w, const Values& actions) {
             return w.receipt(w.session->imagine_act(Walk::span(actions)));
           })
      .def("reloaded", &Walk::reloaded)
      .def("step_frame",  // an rtfm_rt.Frame
           [](Walk& w, const Matrix4& pose) { return w.session->step(w.view(pose)); })
      .def("fork", [](Walk& w) { return std::make_unique<Walk>(w.session->fork()); })
      .def("imagine",
           [](Walk& w, const Matrix4& pose) { return w.receipt(w.session->imagine(w.view(pose))); })
      .def("step",
           [](Walk& w, const PoseSlot& slot) {
             return w.receipt(w.session->step(slot, w.session->default_intrinsics()));
           })
      .def("step",
           [](Walk& w, const Matrix4& pose) { return w.receipt(w.session->step(w.view(pose))); });
}
