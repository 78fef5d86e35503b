// SPDX-License-Identifier: Apache-2.0
// Convolutions and what else only causal_dit needs, called with NumPy arrays: bound by
// internals.cc.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <ctime>
#include <optional>

#include "src/check.h"
#include "src/device.h"
#include "src/model.h"
#include "src/models/causal_dit.h"
#include "src/sequence.h"
#include "tests/device_arrays.h"

namespace py = pybind11;
using namespace rtfm;
using namespace rtfm::testing;

namespace {

struct Codec : DeviceArrays {
  mutable std::vector<double> seconds{};  // of the CPU, for each call of the last convolution

  // x [height * width, channels], past and residual likewise; w [n, side * side * channels]
  Array convolution(const Array& x, int64_t width, const Array& w, const std::optional<Array>& bias,
                    const std::optional<Array>& past, int64_t past_channels,
                    const std::optional<Array>& residual, int64_t zoom, int64_t side,
                    int64_t stride, int64_t padding, const std::string& epilogue, int calls) const {
    const Matrix in = operand(x), before = past ? operand(*past) : Matrix();
    const Matrix added = residual ? operand(*residual) : Matrix();
    Buffer packed(b, b->kernel_bytes(w.shape(0), w.shape(1)));
    b->pack_kernel(w.data(), w.shape(0), w.shape(1), packed.data());
    const Buffer bias_buffer = bias ? vector(*bias) : Buffer();
    const Epilogue e = epilogue == "relu"            ? Epilogue::relu
                       : epilogue == "operand"       ? Epilogue::operand
                       : epilogue == "residual_relu" ? Epilogue::residual_relu
                                                     : Epilogue::store;
    ConvolutionArgs a{.x = in.view().data,
                      .past = before.view().data,
                      .w = packed.data(),
                      .bias = floats(bias_buffer),
                      .residual = added.view().data,
                      .y = nullptr,
                      .x_stride = in.view().stride,
                      .past_stride = before.view().stride,
                      .residual_stride = added.view().stride,
                      .y_stride = 0,
                      .height = x.shape(0) / width,
                      .width = width,
                      .channels = x.shape(1),
                      .past_channels = past_channels,
                      .zoom = zoom,
                      .side = side,
                      .stride = stride,
                      .padding = padding,
                      .n = w.shape(0),
                      .epilogue = e};
    const Matrix out(b, a.rows() * a.cols(), a.n,
                     e == Epilogue::store ? DType::f32 : b->operand_dtype());
    a.y = out.view().data, a.y_stride = out.view().stride;
    seconds.clear();
    for (int i = 0; i < calls; ++i) {
      const std::clock_t start = std::clock();
      b->convolution(a);
      b->finish();
      seconds.push_back(double(std::clock() - start) / CLOCKS_PER_SEC);
    }
    return dense(out);
  }

  Array ungroup(const Array& tokens, int64_t rows, int64_t cols, int64_t channels, int64_t patch,
                float limit) const {
    const Matrix in = f32(tokens), out(b, rows * cols, channels, b->operand_dtype());
    b->ungroup({.tokens = static_cast<const float*>(in.view().data),
                .grid = out.view().data,
                .tokens_stride = in.view().stride,
                .grid_stride = out.view().stride,
                .height = rows,
                .width = cols,
                .channels = channels,
                .patch = patch,
                .limit = limit});
    return dense(out);
  }

  Array norm_silu(const Array& x, const Array& scale, const Array& shift, float eps) const {
    const Matrix in = f32(x), out(b, x.shape(0), x.shape(1), b->operand_dtype());
    const Buffer s = vector(scale), t = vector(shift);
    rms_modulate_silu(*b, in, floats(s), floats(t), eps, out);
    return dense(out);
  }
};

// One model and one workspace; pages are f32 [layers, 2, kv_heads, tokens, dim], of all frames so
// far.
struct TestCausalDit {
  using Pages = std::vector<Array>;

  Model model;
  const CausalDit& network;
  std::shared_ptr<Backend> b;
  Buffer inputs;
  CausalWorkspace w;
  std::vector<Buffer> held;  // the last is what a read pass fills

  TestCausalDit(const std::string& path, const std::string& device, int threads)
      : model(path, device, "auto"),
        network(dynamic_cast<const CausalDit&>(model.network())),
        b(model.make_session_backend(threads)),
        inputs(b, sizeof(StepInputs)),
        w(network.make_workspace(b, reinterpret_cast<const StepInputs*>(inputs.data()))) {
    for (int i = 0; i <= window_size(network.sizes().window); ++i)
      held.emplace_back(b, network.page_bytes(*b));
  }

  Tensor page(const Buffer& buffer) const {
    const CausalDitSizes& s = network.sizes();
    return dense_operands(*b, buffer.data(), s.layers * 2 * s.kv_heads * s.tokens(), s.head_dim);
  }

  ContextSight see(const Array& action, const Pages& past) {
    const CausalDitSizes& s = network.sizes();
    std::vector<ContextPage> context;
    StepInputs step{};
    for (const int64_t id : sequence_context(s.window, int64_t(past.size()))) {
      const Buffer& buffer = held[context.size()];
      to_device(*b, page(buffer), past[size_t(id)].data());
      step.pages[context.size()] = buffer.data();
      context.push_back({buffer.data(), Mat4{}, id});
    }
    step.page = held.back().data();
    b->upload(inputs.data(), &step, sizeof step);
    const Shot shot{.context = context,
                    .actions = {action.data(), size_t(action.size())},
                    .frame = past.size()};
    network.prepare(*b, w, shot);
    const ContextSight sight = sight_of(s.window, shot);
    network.control(*b, w);
    network.gather(*b, w, sight);
    return sight;
  }
  void start(const Array& x) {
    w.x.upload(*b, x.data());
    update(*b, w.sampler_state(), 1.f, 0.f, 0.f, 0);  // the operand copy
  }

  Array write(const Array& x, float t, const Array& action, const Pages& past) {
    const ContextSight sight = see(action, past);
    start(x);
    network.write(*b, w, t, sight);
    return to_array(*b, w.velocity);
  }
  Array sample(const Array& noise, const Array& action, const Pages& past) {
    const ContextSight sight = see(action, past);
    start(noise);
    for (const SamplerRow& row : model.manifest().samplers.begin()->second) {
      network.write(*b, w, row.t, sight);
      update(*b, w.sampler_state(), row.a, row.b, 0.f, 1);
    }
    return to_array(*b, w.x);
  }
  Array read(const Array& tokens, const Array& action, const Pages& past) {
    const ContextSight sight = see(action, past);
    start(tokens);
    network.read(*b, w, sight);
    const CausalDitSizes& s = network.sizes();
    Array out(
        {int64_t{s.layers}, int64_t{2}, int64_t{s.kv_heads}, s.tokens(), int64_t{s.head_dim}});
    to_host(*b, page(held.back()), out.mutable_data());
    return out;
  }

  Array encode(const Bytes& images) {  // the tokens
    const Buffer shown = DeviceArrays{b}.bytes(images);
    network.codec().encode(*b, w.codec, shown.data());
    network.tokenize(*b, w);
    return to_array(*b, w.x);
  }
  // tokens: of a clean frame; `first`: nothing was decoded before
  Bytes decode(const Array& tokens, bool first) {
    const TaehvSizes& s = network.sizes().codec;
    Bytes images({int64_t{s.images()}, s.height(), s.width(), int64_t{3}});
    start(tokens);
    network.untokenize(*b, w);
    if (first) w.codec.decoder.memory.clear();
    const Buffer shown(b, images.size());
    for (int i = first ? -s.warmup : 0; i <= 0; ++i)
      network.codec().decode(*b, w.codec, shown.data());
    b->download(images.mutable_data(), shown.data(), shown.bytes());
    return images;
  }
};

// The frames that local and that global layers of `frame` see.
std::pair<std::vector<int64_t>, std::vector<int64_t>> seen(int recent, int every, int within,
                                                           int64_t frame) {
  const Sequence window{.recent = recent, .every = every, .within = within};
  const std::vector<int64_t> ids = sequence_context(window, frame);
  std::vector<ContextPage> context;
  for (const int64_t id : ids) context.push_back({nullptr, Mat4{}, id});
  const ContextSight sight = sight_of(window, {.context = context, .frame = uint64_t(frame)});
  check<Error>(int(ids.size()) <= window_size(window), "more than a window");
  return {{ids.begin(), ids.begin() + sight.local},
          {ids.begin() + sight.first_global, ids.begin() + sight.first_global + sight.global}};
}

}  // namespace

void bind_causal_dit(py::module_& m) {
  m.def("seen", &seen, py::arg("recent"), py::arg("every"), py::arg("within"), py::arg("frame"));
  py::class_<Codec>(m, "Codec")
      .def(py::init([](const std::string& device, int threads) {
             return Codec{{make_backend(device, "auto", threads)}};
           }),
           py::arg("device"), py::arg("threads") = 1)
      .def("convolution", &Codec::convolution, py::arg("x"), py::arg("width"), py::arg("w"),
           py::arg("bias") = py::none(), py::arg("past") = py::none(), py::arg("past_channels") = 0,
           py::arg("residual") = py::none(), py::arg("zoom") = 1, py::arg("side") = 3,
           py::arg("stride") = 1, py::arg("padding") = 1, py::arg("epilogue") = "store",
           py::arg("calls") = 1)
      .def_readonly("seconds", &Codec::seconds)
      .def("ungroup", &Codec::ungroup)
      .def("norm_silu", &Codec::norm_silu);
  py::class_<TestCausalDit>(m, "CausalDit")
      .def(py::init<const std::string&, const std::string&, int>(), py::arg("path"),
           py::arg("device"), py::arg("threads") = 1)
      .def("write", &TestCausalDit::write)
      .def("sample", &TestCausalDit::sample)
      .def("read", &TestCausalDit::read)
      .def("encode", &TestCausalDit::encode)
      .def("decode", &TestCausalDit::decode);
}
