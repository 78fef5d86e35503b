// SPDX-License-Identifier: Apache-2.0
// World files as the runtime itself reads and writes them, and the two sums of theirs.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/digest.h"
#include "src/model.h"
#include "src/session.h"
#include "src/world_file.h"

namespace py = pybind11;
using namespace rtfm;

void refuse_allocation(int64_t nth);  // internals.cc

namespace {

using Image = py::array_t<uint8_t, py::array::c_style>;
using Matrix = py::array_t<double, py::array::c_style | py::array::forcecast>;

std::span<const std::byte> bytes_of(const py::bytes& object) {
  const std::string_view text(object);
  return std::as_bytes(std::span(text));
}

template <class T>
py::bytes to_bytes(const T& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]};
}

// What `save` and `load` of the C++ API are made of, without the rest of it.
class WorldSession {
  template <class F>
  auto call(const F& f) {
    struct Refusal {
      explicit Refusal(int64_t nth) { refuse_allocation(nth); }
      ~Refusal() { refuse_allocation(0); }
    };
    const Refusal refusal(std::exchange(fails, 0));
    return f(*session_);
  }

 public:
  WorldSession(const std::string& model, const std::string& device, const SessionOptions& options)
      : model_(std::make_shared<Model>(model, device, "auto")),
        budget_(options.memory_budget),
        session_(std::make_unique<Session>(model_, options)) {}

  static std::unique_ptr<WorldSession> load(const std::string& path, const std::string& model,
                                            const std::string& device) {
    LoadedWorld loaded = load_world(path);
    check_model(loaded, path, model, sha256_of_file(model));
    SessionOptions options = loaded.options;
    options.threads = 1;
    auto made = std::make_unique<WorldSession>(model, device, options);
    restore_world(*made->session_, loaded);
    made->saved = std::move(loaded.saved);
    return made;
  }

  void save(const std::string& path) {
    const std::string sha256 = sha256_of_file(model_->path());
    call([&](Session& s) { save_world(s, path, sha256, budget_, saved); });
  }

  int64_t observe(const Image& image, const std::optional<Matrix>& pose) {
    const std::vector<float> actions(model_->manifest().actions.size());
    return call([&](Session& s) {
      return pose ? s.observe(image.data(), view(*pose))
                  : s.observe_next(image.data(), actions, {});
    });
  }

  // Its images and pose, as bytes.
  py::bytes step(const Matrix& pose) {
    return seen(call([&](Session& s) { return s.step(view(pose)); }));
  }
  py::bytes act(const std::vector<float>& actions) {
    return seen(call([&](Session& s) { return s.act(actions); }));
  }
  py::bytes imagine(const Matrix& pose) {
    return seen(call([&](Session& s) { return s.imagine(view(pose)); }));
  }
  py::bytes imagine_act(const std::vector<float>& actions) {
    return seen(call([&](Session& s) { return s.imagine_act(actions); }));
  }

  std::unique_ptr<WorldSession> fork() {
    auto branch = std::unique_ptr<WorldSession>(new WorldSession);
    branch->model_ = model_, branch->budget_ = budget_, branch->session_ = session_->fork();
    return branch;
  }

  void move(int64_t id, const Matrix& pose) {
    call([&](Session& s) { s.update_poses({id}, {Pose::from_matrix(pose.data())}); });
  }

  std::vector<int64_t> ids() {
    return session_->with_memory([](const Memory& m) { return m.frames().ids(); });
  }
  int64_t budget() const { return *session_->options().memory_budget; }
  uint64_t seed() const { return session_->options().seed; }

  SavedWorld saved;
  int64_t fails = 0;  // which allocation of the next call does; 0: none

 private:
  WorldSession() = default;

  View view(const Matrix& pose) const {
    return {Pose::from_matrix(pose.data()), session_->default_intrinsics()};
  }
  static py::bytes seen(const Frame& frame) {
    return py::bytes(reinterpret_cast<const char*>(frame.pixels->data()), frame.pixels->size()) +
           to_bytes(frame.view.pose.matrix());
  }

  std::shared_ptr<const Model> model_;
  std::optional<int64_t> budget_;
  std::unique_ptr<Session> session_;
};

std::unique_ptr<WorldSession> start(const std::string& model, const std::string& device,
                                    uint64_t seed, std::optional<int64_t> memory_budget,
                                    std::optional<double> commit_below) {
  SessionOptions options;
  options.seed = seed;
  options.threads = 1;
  options.memory_budget = memory_budget;
  options.commit_below = commit_below;
  return std::make_unique<WorldSession>(model, device, options);
}

// All that a file holds, to compare.
py::tuple content_of(const std::string& path) {
  const LoadedWorld l = load_world(path);
  std::vector<double> poses;
  const auto add = [&](const Pose& pose) {
    for (const double number : pose.matrix()) poses.push_back(number);
  };
  for (const View& view : l.world.views) {
    add(view.pose);
    poses.insert(poses.end(), {view.intrinsics.fx, view.intrinsics.fy});
  }
  if (l.world.last_pose) add(*l.world.last_pose);
  if (l.world.origin) add(*l.world.origin);
  py::list pages;
  for (const auto& page : l.world.pages) pages.append(to_bytes(page));
  const SessionOptions& o = l.options;
  return py::make_tuple(l.world.next_id, l.world.ids, l.world.by_use, l.world.with_page,
                        to_bytes(poses), l.world.page_dtype, pages, to_bytes(l.images), l.height,
                        l.width, l.saved.model, l.saved.world, l.saved.revisions, o.seed, o.context,
                        o.sinks, o.recent, o.steps, o.commit_below, o.memory_budget);
}

}  // namespace

void bind_world_file(py::module_& m) {
  py::class_<SavedWorld>(m, "SavedWorld")
      .def("__copy__", [](const SavedWorld& self) { return self; })
      .def_readonly("revisions", &SavedWorld::revisions);
  py::class_<WorldSession>(m, "WorldSession")
      .def(py::init(&start), py::arg("model"), py::arg("device") = "cpu:portable",
           py::arg("seed") = 0, py::arg("memory_budget") = py::none(),
           py::arg("commit_below") = py::none())
      .def_static("load", &WorldSession::load, py::arg("path"), py::arg("model"),
                  py::arg("device") = "cpu:portable")
      .def("save", &WorldSession::save, py::call_guard<py::gil_scoped_release>())
      .def("observe", &WorldSession::observe, py::arg("image"), py::arg("pose") = py::none())
      .def("step", &WorldSession::step)
      .def("act", &WorldSession::act)
      .def("imagine", &WorldSession::imagine)
      .def("imagine_act", &WorldSession::imagine_act)
      .def_readwrite("fails", &WorldSession::fails)
      .def("fork", &WorldSession::fork)
      .def("move", &WorldSession::move)
      .def_property_readonly("ids", &WorldSession::ids)
      .def_property_readonly("budget", &WorldSession::budget)
      .def_property_readonly("seed", &WorldSession::seed)
      .def_readwrite("saved", &WorldSession::saved);
  m.def("read_world", &content_of);
  m.def("sha256_of_file", &sha256_of_file);
  m.def("sha256", [](const std::vector<py::bytes>& parts) {
    Sha256 sum;
    for (const py::bytes& part : parts) sum.update(bytes_of(part));
    return sum.finish();
  });
  m.def("crc32", [](const std::vector<py::bytes>& parts) {
    uint32_t sum = 0;
    for (const py::bytes& part : parts) sum = crc32(sum, bytes_of(part));
    return sum;
  });
}
