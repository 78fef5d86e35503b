// SPDX-License-Identifier: Apache-2.0
// The ops and the passes of dual_stream, called with NumPy arrays: bound by internals.cc.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "src/check.h"
#include "src/device.h"
#include "src/model.h"
#include "src/models/dual_stream.h"

namespace py = pybind11;
using namespace rtfm;

namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Image = py::array_t<uint8_t, py::array::c_style>;

// `count` operands from the device, and to it.
void download(Backend& b, const void* from, int64_t count, float* to) {
  if (b.operand_dtype() == DType::f32) return b.download(to, from, count * 4);
  std::vector<uint16_t> half(static_cast<size_t>(count));
  b.download(half.data(), from, count * 2);
  for (size_t i = 0; i < half.size(); ++i) {
    const uint32_t bits = uint32_t(half[i]) << 16;
    std::memcpy(to + i, &bits, 4);
  }
}
void upload(Backend& b, const float* from, int64_t count, void* to) {
  if (b.operand_dtype() == DType::f32) return b.upload(to, from, count * 4);
  std::vector<uint16_t> half(static_cast<size_t>(count));
  for (size_t i = 0; i < half.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, 4);
    half[i] = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
  b.upload(to, half.data(), count * 2);
}

// The whole rows: kernels rely on the zeros of the padding, so an op that writes there is seen.
Array dense(Backend& b, const Tensor& t) {
  Array y({t.rows, t.cols}), row({t.stride});
  for (int64_t r = 0; r < t.rows; ++r) {
    const auto* from = static_cast<const std::byte*>(t.data) + r * t.stride * size_of(t.dtype);
    if (t.dtype == DType::f32)
      b.download(row.mutable_data(), from, t.stride * 4);
    else
      download(b, from, t.stride, row.mutable_data());
    for (int64_t c = t.cols; c < t.stride; ++c)
      check<Error>(row.at(c) == 0, "an op wrote beyond column ", t.cols, " of row ", r);
    std::copy_n(row.data(), t.cols, y.mutable_data(r));
  }
  return y;
}

using View4 = std::tuple<Array, float, float>;  // camera-to-world (4, 4), fx, fy

Camera camera_of(const View4& view) {
  Camera camera{};
  std::copy_n(std::get<0>(view).data(), 12, camera.pose);
  camera.fx = std::get<1>(view), camera.fy = std::get<2>(view);
  return camera;
}

Array ray_patches_of(const std::string& device, int threads, const std::optional<Image>& image,
                     const View4& view, int64_t height, int64_t width, int patch) {
  const std::shared_ptr<Backend> b = make_backend(device, "auto", threads);
  StepInputs step{};
  step.camera = camera_of(view);
  const Buffer inputs(b, sizeof step), pixels(b, height * width * 3);
  b->upload(inputs.data(), &step, sizeof step);
  if (image) b->upload(pixels.data(), image->data(), pixels.bytes());
  const Matrix out(b, height / patch * (width / patch), (image ? 9 : 6) * patch * patch,
                   b->operand_dtype());
  ray_patches(*b, {image ? pixels.data() : nullptr, height, width},
              reinterpret_cast<const StepInputs*>(inputs.data()), patch, out);
  return dense(*b, out);
}

// layer_modulate of x [rows, cols], and then an epilogue of x · wᵀ: what no other test asks of ops.
Array layer_norm_of(const std::string& device, const Array& x, const Array& scale,
                    const Array& shift, float eps) {
  const std::shared_ptr<Backend> b = make_backend(device, "auto", 1);
  const Matrix in(b, x.shape(0), x.shape(1), DType::f32);
  const Matrix out(b, x.shape(0), x.shape(1), b->operand_dtype());
  in.upload(*b, x.data());
  const Buffer s = rtfm::upload(b, {scale.data(), scale.data() + scale.size()});
  const Buffer t = rtfm::upload(b, {shift.data(), shift.data() + shift.size()});
  layer_modulate(*b, in, reinterpret_cast<const float*>(s.data()),
                 reinterpret_cast<const float*>(t.data()), eps, out);
  return dense(*b, out);
}

Array epilogue_of(const std::string& device, const std::string& name, const Array& x,
                  const Array& w, const Array& y0) {
  const std::map<std::string, Epilogue> names = {{"gelu_erf", Epilogue::gelu_erf},
                                                 {"ungated", Epilogue::gated_residual},
                                                 {"signed_sigmoid", Epilogue::signed_sigmoid}};
  const std::shared_ptr<Backend> b = make_backend(device, "auto", 1);
  const int64_t rows = x.shape(0), n = w.shape(0), k = w.shape(1);
  const Matrix in(b, rows, k, b->operand_dtype());
  for (int64_t r = 0; r < rows; ++r)
    upload(
        *b, x.data(r), k,
        static_cast<std::byte*>(in.view().data) + r * in.view().stride * size_of(in.view().dtype));
  const Buffer packed(b, b->weight_bytes(n, k, DType::f32));
  b->pack_weight(w.data(), n, k, DType::f32, packed.data());
  const Matrix out(b, rows, n, name == "gelu_erf" ? b->operand_dtype() : DType::f32);
  if (name == "ungated") out.upload(*b, y0.data());
  b->matmul({.x = in.view().data,
             .w = packed.data(),
             .bias = nullptr,
             .gate = nullptr,
             .y = out.view().data,
             .x_stride = in.view().stride,
             .y_stride = out.view().stride,
             .rows = rows,
             .n = n,
             .k = k,
             .epilogue = names.at(name)});
  return dense(*b, out);
}

// One model and one workspace; pages as f32 [layers, 2, heads, tokens, dim].
struct TestDualStream {
  Model model;
  const DualStream& network;
  std::shared_ptr<Backend> b;
  Buffer inputs;
  DualStream::Workspace w;
  std::vector<Buffer> held;

  TestDualStream(const std::string& path, const std::string& device, int threads, int pages)
      : model(path, device, "auto"),
        network(dynamic_cast<const DualStream&>(model.network())),
        b(model.make_session_backend(threads)),
        inputs(b, sizeof(StepInputs)),
        w(network.make_workspace(b, pages, reinterpret_cast<const StepInputs*>(inputs.data()))) {
    for (int i = 0; i <= pages; ++i) held.emplace_back(b, network.page_bytes(*b));
  }

  Array read(const Image& image, const View4& view) {
    const DualStreamSizes& s = network.sizes();
    const Buffer pixels(b, image.size());
    b->upload(pixels.data(), image.data(), image.size());
    StepInputs step{};
    step.camera = camera_of(view);
    step.page = held.back().data();
    b->upload(inputs.data(), &step, sizeof step);
    network.read(*b, w, {pixels.data(), s.image_height, s.image_width});
    Array out({s.layers, 2, s.heads, s.tokens(), s.head_dim});
    download(*b, held.back().data(), out.size(), out.mutable_data());
    return out;
  }
  Array write(const std::vector<Array>& pages, const View4& view) {
    check<Error>(pages.size() < held.size(), "too many pages");
    StepInputs step{};
    step.camera = camera_of(view);
    for (size_t i = 0; i < pages.size(); ++i) {
      upload(*b, pages[i].data(), pages[i].size(), held[i].data());
      step.pages[i] = held[i].data();
    }
    b->upload(inputs.data(), &step, sizeof step);
    network.write(*b, w, int(pages.size()));
    return dense(*b, w.frame);
  }
};

}  // namespace

void bind_dual_stream(py::module_& m) {
  m.def("ray_patches", &ray_patches_of, py::arg("device"), py::arg("threads"), py::arg("image"),
        py::arg("view"), py::arg("height"), py::arg("width"), py::arg("patch"));
  m.def("layer_norm", &layer_norm_of, py::arg("device"), py::arg("x"), py::arg("scale"),
        py::arg("shift"), py::arg("eps"));
  m.def("epilogue", &epilogue_of, py::arg("device"), py::arg("name"), py::arg("x"), py::arg("w"),
        py::arg("y0"));
  py::class_<TestDualStream>(m, "DualStream")
      .def(py::init<const std::string&, const std::string&, int, int>(), py::arg("path"),
           py::arg("device"), py::arg("threads") = 1, py::arg("pages") = 4)
      .def_property_readonly("precision",
                             [](const TestDualStream& n) { return n.model.precision(); })
      .def("read", &TestDualStream::read, py::arg("image"), py::arg("view"))
      .def("write", &TestDualStream::write, py::arg("pages"), py::arg("view"));
}
