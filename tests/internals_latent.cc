// SPDX-License-Identifier: Apache-2.0
// The ops around latents and time, called with NumPy arrays: bound by internals.cc.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "src/device.h"
#include "tests/device_arrays.h"

namespace py = pybind11;
using namespace rtfm;
using namespace rtfm::testing;

namespace {

struct LatentOps : DeviceArrays {
  LatentOps(const std::string& device, int threads)
      : DeviceArrays{make_backend(device, "auto", threads)} {}

  Bytes download(const Buffer& buffer) const {
    Bytes out(buffer.bytes());
    b->download(out.mutable_data(), buffer.data(), buffer.bytes());
    return out;
  }
  // The bytes of a matrix, rows as they lie: [rows, stride * element]. Python sees to the padding.
  Bytes rows(const Tensor& t) const {
    Bytes out({t.rows, t.stride * size_of(t.dtype)});
    b->download(out.mutable_data(), t.data, out.size());
    return out;
  }

  // y as operand rows, and what the op left in the page; qkv null in y for `only_page`
  std::pair<Bytes, Bytes> time_attention(const Array& qkv, const Array& cos, const Array& sin,
                                         const std::vector<Bytes>& pages, const Bytes& page,
                                         int64_t layer, int64_t heads, bool only_page) const {
    const int64_t tokens = qkv.shape(0), width = qkv.shape(1) / 3;
    const Matrix in = f32(qkv), out(b, tokens, width, b->operand_dtype());
    const Buffer c = vector(cos), s = vector(sin), own = bytes(page);
    std::vector<Buffer> held;
    StepInputs step{};
    for (size_t i = 0; i < pages.size(); ++i) {
      held.push_back(bytes(pages[i]));
      step.pages[i] = held.back().data();
    }
    step.page = page.size() ? own.data() : nullptr;
    const Buffer given = inputs(step);
    const float* q = static_cast<const float*>(in.view().data);
    b->time_attention({.q = q,
                       .k = q + width,
                       .v = q + 2 * width,
                       .cos = floats(c),
                       .sin = floats(s),
                       .inputs = reinterpret_cast<const StepInputs*>(given.data()),
                       .y = only_page ? nullptr : out.view().data,
                       .stride = in.view().stride,
                       .y_stride = out.view().stride,
                       .layer = layer,
                       .pages = int64_t(pages.size()),
                       .tokens = tokens,
                       .heads = heads,
                       .dim = width / heads});
    return {rows(out), download(own)};
  }

  Bytes condition(const Array& base, const Array& weight, const Array& actions) const {
    const Buffer rows_in = vector(base), w = vector(weight), a = vector(actions);
    const Matrix out(b, base.shape(0), base.shape(1), b->operand_dtype());
    b->condition({.base = floats(rows_in),
                  .weight = floats(w),
                  .actions = floats(a),
                  .y = out.view().data,
                  .y_stride = out.view().stride,
                  .rows = base.shape(0),
                  .cols = base.shape(1),
                  .count = weight.shape(0)});
    return rows(out);
  }

  Bytes save_frame(const Array& x, const std::vector<float>& actions, const Bytes& page,
                   int64_t offset) const {
    const Matrix in = f32(x);
    const Buffer own = bytes(page);
    StepInputs step{};
    step.page = own.data();
    std::copy(actions.begin(), actions.end(), step.actions);
    const Buffer given = inputs(step);
    b->save_frame({.x = static_cast<const float*>(in.view().data),
                   .inputs = reinterpret_cast<const StepInputs*>(given.data()),
                   .x_stride = in.view().stride,
                   .rows = x.shape(0),
                   .cols = x.shape(1),
                   .actions = int64_t(actions.size()),
                   .offset = offset});
    return download(own);
  }
  std::pair<Bytes, Bytes> load_frame(const Bytes& page, int64_t offset, int64_t n, int64_t cols,
                                     int64_t count) const {
    const Matrix out(b, n, cols, DType::f32);
    const Buffer own = bytes(page), actions(b, count * 4);
    StepInputs step{};
    step.page = own.data();
    const Buffer given = inputs(step);
    b->load_frame({.x = static_cast<float*>(out.view().data),
                   .actions = reinterpret_cast<float*>(actions.data()),
                   .inputs = reinterpret_cast<const StepInputs*>(given.data()),
                   .x_stride = out.view().stride,
                   .rows = n,
                   .cols = cols,
                   .count = count,
                   .offset = offset});
    return {rows(out), download(actions)};
  }

  Bytes group(const Array& grid, int64_t height, int64_t width, int64_t patch) const {
    const int64_t channels = grid.shape(1), cells = patch * patch;
    const Matrix in = f32(grid), out(b, height * width / cells, cells * channels, DType::f32);
    b->group({.grid = static_cast<const float*>(in.view().data),
              .tokens = static_cast<float*>(out.view().data),
              .grid_stride = in.view().stride,
              .tokens_stride = out.view().stride,
              .height = height,
              .width = width,
              .channels = channels,
              .patch = patch});
    return rows(out);
  }
  Bytes ungroup(const Array& tokens, int64_t height, int64_t width, int64_t patch) const {
    const int64_t channels = tokens.shape(1) / (patch * patch);
    const Matrix in = f32(tokens), out(b, height * width, channels, b->operand_dtype());
    b->ungroup({.tokens = static_cast<const float*>(in.view().data),
                .grid = out.view().data,
                .tokens_stride = in.view().stride,
                .grid_stride = out.view().stride,
                .height = height,
                .width = width,
                .channels = channels,
                .patch = patch});
    return rows(out);
  }
};

}  // namespace

void bind_latent(py::module_& m) {
  py::class_<LatentOps>(m, "LatentOps")
      .def(py::init<const std::string&, int>(), py::arg("device"), py::arg("threads") = 0)
      .def_property_readonly("precision", [](const LatentOps& o) { return precision_name(*o.b); })
      .def("time_attention", &LatentOps::time_attention, py::arg("qkv"), py::arg("cos"),
           py::arg("sin"), py::arg("pages"), py::arg("page"), py::arg("layer"), py::arg("heads"),
           py::arg("only_page") = false)
      .def("condition", &LatentOps::condition, py::arg("base"), py::arg("weight"),
           py::arg("actions"))
      .def("save_frame", &LatentOps::save_frame, py::arg("x"), py::arg("actions"), py::arg("page"),
           py::arg("offset"))
      .def("load_frame", &LatentOps::load_frame, py::arg("page"), py::arg("offset"),
           py::arg("rows"), py::arg("cols"), py::arg("count"))
      .def("group", &LatentOps::group, py::arg("grid"), py::arg("height"), py::arg("width"),
           py::arg("patch"))
      .def("ungroup", &LatentOps::ungroup, py::arg("tokens"), py::arg("height"), py::arg("width"),
           py::arg("patch"));
}
