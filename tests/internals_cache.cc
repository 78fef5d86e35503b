// SPDX-License-Identifier: Apache-2.0
// The pose and frame cache part of rtfm_rt._testing.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>
#include <vector>

#include "src/frame_cache.h"
#include "src/frustum.h"
#include "src/pose.h"

namespace py = pybind11;

void bind_cache(py::module_& m);

namespace {

using rtfm::FrameCache;
using Matrix = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Focal = std::pair<double, double>;

rtfm::Pose pose_of(const Matrix& matrix) {
  if (matrix.ndim() != 2 || matrix.shape(0) != 4 || matrix.shape(1) != 4)
    throw py::value_error("expected a 4x4 matrix");
  return rtfm::Pose::from_matrix(matrix.data());
}

rtfm::View view_of(const Matrix& matrix, Focal focal) {
  return {pose_of(matrix), {focal.first, focal.second}};
}

template <class T, class Data>
py::array_t<T> as_4x4(const Data& values) {
  py::array_t<T> matrix({4, 4});
  std::copy(values.begin(), values.end(), matrix.mutable_data());
  return matrix;
}

py::dict as_dict(const rtfm::Plan& plan) {
  py::dict result;
  result["ids"] = std::vector<int64_t>(plan.ids, plan.ids + plan.count);
  result["slots"] = std::vector<int32_t>(plan.slots, plan.slots + plan.count);
  result["support"] = plan.support;
  return result;
}

std::vector<rtfm::View> views_of(const Matrix& matrices, Focal focal) {
  std::vector<rtfm::View> views;
  views.reserve(matrices.shape(0));
  for (py::ssize_t i = 0; i < matrices.shape(0); ++i)
    views.push_back({rtfm::Pose::from_matrix(matrices.data(i, 0, 0)), {focal.first, focal.second}});
  return views;
}

// Microseconds that f(i, views[i]) takes for each of the matrices [n, 4, 4].
template <class F>
py::array_t<double> microseconds(const Matrix& matrices, Focal focal, F f) {
  using Clock = std::chrono::steady_clock;
  const std::vector<rtfm::View> views = views_of(matrices, focal);
  py::array_t<double> times(matrices.shape(0));
  double* next = times.mutable_data();
  std::fill(next, next + times.size(), 0);
  for (size_t i = 0; i < views.size(); ++i) {
    const auto start = Clock::now();
    f(static_cast<int64_t>(i), views[i]);
    *next++ = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  }
  return times;
}

// What a scan of every frame achieves with the choice of FrameCache: the share of the view that the
// sinks, the newest frames and the greedy rest have seen, for each of the queries [n, 4, 4].
std::vector<double> exact_support(const FrameCache& cache, const rtfm::Retrieval& r,
                                  const Matrix& matrices, Focal focal) {
  const rtfm::Sight sight(r.near, r.far);
  std::vector<rtfm::Frustum> frames;  // in order of insertion
  for (const int64_t id : cache.ids()) frames.push_back(rtfm::frustum(cache.view_of(id)));
  const int64_t n = static_cast<int64_t>(frames.size());
  std::vector<double> support;
  std::vector<uint64_t> masks(n);
  for (const rtfm::View& query : views_of(matrices, focal)) {
    const rtfm::FrustumPoints points = rtfm::points_of(query);
    for (int64_t i = 0; i < n; ++i) masks[i] = sight.seen(frames[i], points);
    uint64_t left = ~uint64_t{0};
    int64_t taken = std::min<int64_t>(n, r.sinks + r.recent);
    for (int64_t i = 0; i < std::min<int64_t>(r.sinks, n); ++i) left &= ~masks[i];
    for (int64_t i = std::max<int64_t>(n - r.recent, 0); i < n; ++i) left &= ~masks[i];
    for (; taken < std::min<int64_t>(n, r.context); ++taken) {
      const auto gain = [&](uint64_t mask) { return std::popcount(mask & left); };
      left &= ~*std::max_element(masks.begin(), masks.end(),
                                 [&](uint64_t a, uint64_t b) { return gain(a) < gain(b); });
    }
    support.push_back(std::popcount(~left) / 64.0);
  }
  return support;
}

}  // namespace

void bind_cache(py::module_& m) {
  m.def("pose_from_matrix",
        [](const Matrix& matrix) { return as_4x4<double>(pose_of(matrix).matrix()); });
  m.def(
      "camera_transform",
      [](const Matrix& query, Focal query_focal, const Matrix& page, Focal page_focal,
         double world_scale) {
        return as_4x4<float>(rtfm::camera_transform(view_of(query, query_focal),
                                                    view_of(page, page_focal), world_scale));
      },
      py::arg("query"), py::arg("query_focal"), py::arg("page"), py::arg("page_focal"),
      py::arg("world_scale") = 1.0);
  py::class_<FrameCache>(m, "FrameCache")
      .def(py::init(
               [](int64_t capacity, int context, int sinks, int recent, double near, double far) {
                 return FrameCache({context, sinks, recent, near, far}, capacity);
               }),
           py::arg("capacity"), py::arg("context") = 4, py::arg("sinks") = 1, py::arg("recent") = 1,
           py::arg("near") = 0.3, py::arg("far") = 10.0)
      .def("plan",
           [](FrameCache& c, const Matrix& p, Focal f) { return as_dict(c.plan(view_of(p, f))); })
      .def("peek",
           [](FrameCache& c, const Matrix& p, Focal f) { return as_dict(c.peek(view_of(p, f))); })
      .def("insert", [](FrameCache& c, int64_t id, const Matrix& p,
                        Focal f) { return c.insert(id, view_of(p, f)); })
      .def("update_view", [](FrameCache& c, int64_t id, const Matrix& p,
                             Focal f) { c.update_view(id, view_of(p, f)); })
      .def("nearest",
           [](const FrameCache& c, const Matrix& p, int k) { return c.nearest(pose_of(p), k); })
      .def("coverage",
           [](const FrameCache& c, const Matrix& p, Focal f) { return c.coverage(view_of(p, f)); })
      .def("pose_of", [](const FrameCache& c,
                         int64_t id) { return as_4x4<double>(c.view_of(id).pose.matrix()); })
      .def("pose_in", [](const FrameCache& c,
                         int32_t slot) { return as_4x4<double>(c.view(slot).pose.matrix()); })
      .def("ids", &FrameCache::ids)
      .def("copy", [](const FrameCache& c) { return FrameCache(c); })
      .def("insert_all",
           [](FrameCache& c, int64_t first_id, const Matrix& poses, Focal f) {
             for (const rtfm::View& view : views_of(poses, f)) c.insert(first_id++, view);
           })
      .def("supports",
           [](FrameCache& c, const Matrix& poses, Focal f) {
             std::vector<double> support;
             for (const rtfm::View& view : views_of(poses, f))
               support.push_back(c.peek(view).support);
             return support;
           })
      .def(
          "exact_supports",
          [](const FrameCache& c, const Matrix& poses, Focal f, int context, int sinks, int recent,
             double near, double far) {
            return exact_support(c, {context, sinks, recent, near, far}, poses, f);
          },
          py::arg("poses"), py::arg("focal"), py::arg("context") = 4, py::arg("sinks") = 1,
          py::arg("recent") = 1, py::arg("near") = 0.3, py::arg("far") = 10.0)
      .def_property_readonly("size", &FrameCache::size)
      .def_property_readonly("capacity", &FrameCache::capacity)
      .def_property_readonly("evicted", &FrameCache::evicted)
      .def("time_plan",
           [](FrameCache& c, const Matrix& poses, Focal f) {
             return microseconds(poses, f, [&](int64_t, const rtfm::View& v) { c.plan(v); });
           })
      .def("time_insert", [](FrameCache& c, int64_t first_id, const Matrix& poses, Focal f) {
        return microseconds(poses, f,
                            [&](int64_t i, const rtfm::View& v) { c.insert(first_id + i, v); });
      });
}
