// SPDX-License-Identifier: Apache-2.0
// The ops and the passes of dual_stream, called with NumPy arrays: bound by internals.cc.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <optional>
#include <vector>

#include "src/check.h"
#include "src/device.h"
#include "src/model.h"
#include "src/models/dual_stream.h"
#include "tests/device_arrays.h"

namespace py = pybind11;
using namespace rtfm;
using namespace rtfm::testing;

namespace {

using View4 = std::tuple<Array, float, float>;  // camera-to-world (4, 4), fx, fy

Camera camera_of(const View4& view) {
  Camera camera{};
  std::copy_n(std::get<0>(view).data(), 12, camera.pose);
  camera.fx = std::get<1>(view), camera.fy = std::get<2>(view);
  return camera;
}

Array ray_patches_of(const std::string& device, int threads, const std::optional<Bytes>& image,
                     const View4& view, int64_t height, int64_t width, int patch) {
  const std::shared_ptr<Backend> b = make_backend(device, "auto", threads);
  StepInputs step{};
  step.camera = camera_of(view);
  const Buffer inputs = DeviceArrays{b}.inputs(step), pixels(b, height * width * 3);
  if (image) b->upload(pixels.data(), image->data(), pixels.bytes());
  const Matrix out(b, height / patch * (width / patch), (image ? 9 : 6) * patch * patch,
                   b->operand_dtype());
  ray_patches(*b, {image ? pixels.data() : nullptr, height, width},
              reinterpret_cast<const StepInputs*>(inputs.data()), patch, out);
  return to_array(*b, out);
}

// layer_modulate of x [rows, cols], and then an epilogue of x · wᵀ: what no other test asks of ops.
Array layer_norm_of(const std::string& device, const Array& x, const Array& scale,
                    const Array& shift, float eps) {
  const DeviceArrays on{make_backend(device, "auto", 1)};
  const Matrix in = on.f32(x), out(on.b, x.shape(0), x.shape(1), on.b->operand_dtype());
  const Buffer s = on.vector(scale), t = on.vector(shift);
  layer_modulate(*on.b, in, floats(s), floats(t), eps, out);
  return on.dense(out);
}

Array epilogue_of(const std::string& device, const std::string& name, const Array& x,
                  const Array& w, const Array& y0) {
  const std::map<std::string, Epilogue> names = {{"gelu_erf", Epilogue::gelu_erf},
                                                 {"ungated", Epilogue::gated_residual},
                                                 {"signed_sigmoid", Epilogue::signed_sigmoid}};
  const std::shared_ptr<Backend> b = make_backend(device, "auto", 1);
  const int64_t rows = x.shape(0), n = w.shape(0), k = w.shape(1);
  const Matrix in = DeviceArrays{b}.operand(x);
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
  return to_array(*b, out);
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

  Tensor page(const Buffer& buffer) const {
    const DualStreamSizes& s = network.sizes();
    return dense_operands(*b, buffer.data(), s.layers * 2 * s.heads * s.tokens(), s.head_dim);
  }
  Array read(const Bytes& image, const View4& view) {
    const DualStreamSizes& s = network.sizes();
    const Buffer pixels = DeviceArrays{b}.bytes(image);
    StepInputs step{};
    step.camera = camera_of(view);
    step.page = held.back().data();
    b->upload(inputs.data(), &step, sizeof step);
    network.read(*b, w, {pixels.data(), s.image_height, s.image_width});
    Array out({s.layers, 2, s.heads, s.tokens(), s.head_dim});
    to_host(*b, page(held.back()), out.mutable_data());
    return out;
  }
  Array write(const std::vector<Array>& pages, const View4& view) {
    check<Error>(pages.size() < held.size(), "too many pages");
    StepInputs step{};
    step.camera = camera_of(view);
    for (size_t i = 0; i < pages.size(); ++i) {
      to_device(*b, page(held[i]), pages[i].data());
      step.pages[i] = held[i].data();
    }
    b->upload(inputs.data(), &step, sizeof step);
    network.write(*b, w, int(pages.size()));
    return to_array(*b, w.frame);
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
