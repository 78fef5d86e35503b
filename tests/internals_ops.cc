// SPDX-License-Identifier: Apache-2.0
// Single ops and single passes of the network, called with NumPy arrays: bound by internals.cc.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "src/check.h"
#include "src/device.h"
#include "src/model.h"
#include "src/models/frame_dit.h"
#include "src/sampler.h"
#include "tests/device_arrays.h"

namespace py = pybind11;
using namespace rtfm;
using namespace rtfm::testing;

namespace {

struct Device : DeviceArrays {
  Device(const std::string& device, const std::string& precision, int threads)
      : DeviceArrays{make_backend(device, precision, threads)} {}

  Array matmul(const Array& x, const Array& w, const std::optional<Array>& bias,
               const std::string& epilogue, const std::optional<Array>& gate,
               const std::optional<Array>& y0, bool narrow) const {
    const int64_t rows = x.shape(0), n = w.shape(0), k = w.shape(1);
    const Matrix in = operand(x);
    const DType stored = narrow ? DType::bf16 : DType::f32;
    Buffer packed(b, b->weight_bytes(n, k, stored));
    b->pack_weight(w.data(), n, k, stored, packed.data());
    const Buffer bias_buffer = bias ? vector(*bias) : Buffer();
    const Buffer gate_buffer = gate ? vector(*gate) : Buffer();
    const Epilogue e = epilogue == "gelu"    ? Epilogue::gelu
                       : epilogue == "gated" ? Epilogue::gated_residual
                                             : Epilogue::store;
    const Matrix out =
        y0 ? f32(*y0) : Matrix(b, rows, n, e == Epilogue::gelu ? b->operand_dtype() : DType::f32);
    b->matmul({.x = in.view().data,
               .w = packed.data(),
               .bias = floats(bias_buffer),
               .gate = floats(gate_buffer),
               .y = out.view().data,
               .x_stride = in.view().stride,
               .y_stride = out.view().stride,
               .rows = rows,
               .n = n,
               .k = k,
               .epilogue = e,
               .stored = stored});
    return dense(out);
  }

  Array norm_modulate(const Array& x, const Array& scale, const Array& shift, float eps) const {
    const Matrix in = f32(x);
    const Matrix out(b, x.shape(0), x.shape(1), b->operand_dtype());
    const Buffer s = vector(scale), t = vector(shift);
    b->norm_modulate({.x = static_cast<const float*>(in.view().data),
                      .scale = floats(s),
                      .shift = floats(t),
                      .y = out.view().data,
                      .x_stride = in.view().stride,
                      .y_stride = out.view().stride,
                      .rows = x.shape(0),
                      .cols = x.shape(1),
                      .eps = eps,
                      .norm = Norm::rms});
    return dense(out);
  }

  // qkv_split, gather of every (k, v, M) page and attention in one: y, page_k, page_v.
  py::tuple attend(const Array& qkv, const Array& q_gain, const Array& k_gain, const Array& cos,
                   const Array& sin, int64_t heads, float eps,
                   const std::vector<std::tuple<Array, Array, Array>>& pages) const {
    const int64_t tokens = qkv.shape(0), dim = q_gain.size(), slots = 1 + int64_t(pages.size());
    const Matrix in = f32(qkv);
    const Buffer qg = vector(q_gain), kg = vector(k_gain), c = vector(cos), s = vector(sin);
    const Buffer q(b, b->query_bytes(heads, tokens, dim));
    const int64_t slot_bytes = b->slot_bytes(heads, tokens, dim), rows = heads * tokens;
    const Buffer context(b, slots * slot_bytes);
    const int64_t half = rows * dim * size_of(b->operand_dtype());  // of a page
    std::vector<Buffer> held;
    StepInputs step{};
    for (int64_t i = 0; i < slots; ++i) held.emplace_back(b, 2 * half);
    for (int64_t i = 0; i + 1 < slots; ++i) {
      const auto& [k, v, transform] = pages[size_t(i)];
      std::byte* page = held[size_t(i)].data();
      to_device(*b, dense_operands(*b, page, rows, dim), k.data());
      to_device(*b, dense_operands(*b, page + half, rows, dim), v.data());
      step.pages[i] = page;
      std::copy_n(transform.data(), 16, step.transforms[i]);
    }
    step.page = held.back().data();
    const Buffer given = inputs(step);
    const float* rows_in = static_cast<const float*>(in.view().data);
    b->qkv_split({.q = rows_in,
                  .k = rows_in + heads * dim,
                  .v = rows_in + 2 * heads * dim,
                  .q_gain = floats(qg),
                  .k_gain = floats(kg),
                  .cos = floats(c),
                  .sin = floats(s),
                  .query = q.data(),
                  .slot = context.data(),
                  .inputs = reinterpret_cast<const StepInputs*>(given.data()),
                  .layer = 0,
                  .stride = in.view().stride,
                  .tokens = tokens,
                  .heads = heads,
                  .kv_heads = heads,
                  .dim = dim,
                  .rope = dim / 4,
                  .eps = eps});
    Array k({heads, tokens, dim}), v({heads, tokens, dim});
    to_host(*b, dense_operands(*b, held.back().data(), rows, dim), k.mutable_data());
    to_host(*b, dense_operands(*b, held.back().data() + half, rows, dim), v.mutable_data());
    b->gather({.inputs = reinterpret_cast<const StepInputs*>(given.data()),
               .context = context.data(),
               .first_page = 0,
               .pages = slots - 1,
               .slots = slots,
               .slot_bytes = slot_bytes,
               .first_layer = 0,
               .layers = 1,
               .tokens = tokens,
               .heads = heads,
               .dim = dim,
               .camera_dims = dim / 2});
    const Matrix out(b, tokens, heads * dim, b->operand_dtype());
    b->attention({.q = q.data(),
                  .context = context.data(),
                  .y = out.view().data,
                  .y_stride = out.view().stride,
                  .slots = slots,
                  .tokens = tokens,
                  .heads = heads,
                  .kv_heads = heads,
                  .dim = dim});
    return py::make_tuple(dense(out), k, v);
  }

  // x after the update, and its operand copy
  py::tuple sampler(const Array& x, const Array& x0, float a, float b_, float c, uint64_t seed,
                    uint64_t frame, uint32_t step) const {
    const Matrix state = f32(x), answer = f32(x0);
    const Matrix copy(b, x.shape(0), x.shape(1), b->operand_dtype());
    StepInputs key{};
    key.seed = seed, key.frame = frame;
    const Buffer given = inputs(key);
    b->sampler({.x = static_cast<float*>(state.view().data),
                .x0 = static_cast<const float*>(answer.view().data),
                .operand = copy.view().data,
                .inputs = reinterpret_cast<const StepInputs*>(given.data()),
                .x_stride = state.view().stride,
                .x0_stride = answer.view().stride,
                .operand_stride = copy.view().stride,
                .rows = x.shape(0),
                .cols = x.shape(1),
                .a = a,
                .b = b_,
                .c = c,
                .step = step});
    return py::make_tuple(dense(state), dense(copy));
  }

  Array patchify(const Bytes& image, int64_t patch) const {
    const int64_t height = image.shape(0), width = image.shape(1);
    const Matrix out(b, height / patch * (width / patch), 3 * patch * patch, b->operand_dtype());
    const Buffer pixels = bytes(image);
    b->patchify({.image = reinterpret_cast<const uint8_t*>(pixels.data()),
                 .tokens = out.view().data,
                 .tokens_stride = out.view().stride,
                 .height = height,
                 .width = width,
                 .patch = patch});
    return dense(out);
  }
  Bytes unpatchify(const Array& tokens, int64_t height, int64_t width, int64_t patch) const {
    const Matrix in = f32(tokens);
    Bytes image({height, width, int64_t{3}});
    const Buffer pixels(b, image.size());
    b->unpatchify({.tokens = static_cast<const float*>(in.view().data),
                   .image = reinterpret_cast<uint8_t*>(pixels.data()),
                   .tokens_stride = in.view().stride,
                   .height = height,
                   .width = width,
                   .patch = patch});
    b->download(image.mutable_data(), pixels.data(), image.size());
    return image;
  }
};

// One model and one workspace: the read and write pass, pages as f32 [layers, 2, heads, tokens,
// dim].
struct TestNetwork {
  Model model;
  const FrameDit& network;
  std::shared_ptr<Backend> b;
  int most_pages;
  Buffer inputs;
  Workspace w;
  PageLayout layout;
  std::vector<Buffer> held;  // [pages + 1]; the last is what a read pass fills

  TestNetwork(const std::string& path, const std::string& device, const std::string& precision,
              int threads, int pages)
      : model(path, device, precision),
        network(dynamic_cast<const FrameDit&>(model.network())),
        b(model.make_session_backend(threads)),
        most_pages(pages),
        inputs(b, sizeof(StepInputs)),
        w(network.make_workspace(b, pages, reinterpret_cast<const StepInputs*>(inputs.data()))),
        layout(network.page_layout(*b)) {
    for (int i = 0; i <= pages; ++i) held.emplace_back(b, layout.bytes());
  }

  Tensor page(const Buffer& buffer) const {
    return dense_operands(*b, buffer.data(), layout.layers * 2 * layout.heads * layout.tokens,
                          layout.dim);
  }
  void upload_inputs(const StepInputs& step) { b->upload(inputs.data(), &step, sizeof step); }

  Array read(const Bytes& image) {
    const Manifest& m = model.manifest();
    const Buffer pixels = DeviceArrays{b}.bytes(image);
    StepInputs step{};
    step.page = held.back().data();
    upload_inputs(step);
    patchify(*b, {pixels.data(), m.image_height, m.image_width}, network.sizes().patch,
             w.x_operand);
    network.read(*b, w);
    Array out({layout.layers, int64_t{2}, layout.heads, layout.tokens, layout.dim});
    to_host(*b, page(held.back()), out.mutable_data());
    return out;
  }
  void gather(const std::vector<std::pair<Array, Array>>& pages) {  // (page, M)
    check<Error>(int(pages.size()) <= most_pages, "too many pages");
    StepInputs step{};
    for (size_t i = 0; i < pages.size(); ++i) {
      const auto& [values, transform] = pages[i];
      to_device(*b, page(held[i]), values.data());
      step.pages[i] = held[i].data();
      std::copy_n(transform.data(), 16, step.transforms[i]);
    }
    upload_inputs(step);
    network.gather(*b, w, int(pages.size()));
  }
  void start(const Array& x) {
    w.x.upload(*b, x.data());
    update(*b, w.sampler_state(), 1.f, 0.f, 0.f, 0);  // the operand copy
  }
  Array write(const Array& x, float t, const std::vector<std::pair<Array, Array>>& pages) {
    gather(pages);
    start(x);
    network.write(*b, w, t, int(pages.size()));
    return to_array(*b, w.x0);
  }
  // The sampler's loop from given noise.
  Array sample(const Array& noise, int steps, const std::vector<std::pair<Array, Array>>& pages) {
    gather(pages);
    start(noise);
    for (const SamplerRow& row : model.manifest().samplers.at(steps)) {
      network.write(*b, w, row.t, int(pages.size()));
      update(*b, w.sampler_state(), row.a, row.b, row.c, 1);
    }
    return to_array(*b, w.x);
  }
};

}  // namespace

void bind_ops(py::module_& m) {
  py::class_<Device>(m, "Device")
      .def(py::init<const std::string&, const std::string&, int>(), py::arg("device"),
           py::arg("precision") = "auto", py::arg("threads") = 0)
      .def_property_readonly("name", [](const Device& d) { return d.b->name(); })
      .def_property_readonly("precision", [](const Device& d) { return precision_name(*d.b); })
      .def_property_readonly("cublas", [](const Device& d) { return d.b->cublas(); })
      .def("matmul", &Device::matmul, py::arg("x"), py::arg("w"), py::arg("bias") = py::none(),
           py::arg("epilogue") = "store", py::arg("gate") = py::none(), py::arg("y0") = py::none(),
           py::arg("narrow") = false)
      .def("norm_modulate", &Device::norm_modulate, py::arg("x"), py::arg("scale"),
           py::arg("shift"), py::arg("eps") = 1e-6f)
      .def("attend", &Device::attend, py::arg("qkv"), py::arg("q_gain"), py::arg("k_gain"),
           py::arg("cos"), py::arg("sin"), py::arg("heads"), py::arg("eps"), py::arg("pages"))
      .def("sampler", &Device::sampler, py::arg("x"), py::arg("x0"), py::arg("a"), py::arg("b"),
           py::arg("c"), py::arg("seed"), py::arg("frame"), py::arg("step"))
      .def("patchify", &Device::patchify, py::arg("image"), py::arg("patch"))
      .def("unpatchify", &Device::unpatchify, py::arg("tokens"), py::arg("height"),
           py::arg("width"), py::arg("patch"));
  py::class_<TestNetwork>(m, "Network")
      .def(py::init<const std::string&, const std::string&, const std::string&, int, int>(),
           py::arg("path"), py::arg("device"), py::arg("precision") = "auto",
           py::arg("threads") = 0, py::arg("pages") = 9)
      .def_property_readonly("precision", [](const TestNetwork& n) { return n.model.precision(); })
      .def("read", &TestNetwork::read, py::arg("image"))
      .def("write", &TestNetwork::write, py::arg("x"), py::arg("t"), py::arg("pages"))
      .def("sample", &TestNetwork::sample, py::arg("noise"), py::arg("steps"), py::arg("pages"));
}
