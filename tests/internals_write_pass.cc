// SPDX-License-Identifier: Apache-2.0
// The write pass alone, again and again, and what each of its ops takes: for the benchmarks, bound
// by internals.cc.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "src/check.h"
#include "src/model.h"
#include "src/models/frame_dit.h"

namespace py = pybind11;
using namespace rtfm;

namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Images = py::array_t<uint8_t, py::array::c_style>;
using Phase = std::tuple<std::string, double>;  // op, seconds

// Another backend that writes down how long each of its ops took.
class TimedBackend final : public Backend {
 public:
  explicit TimedBackend(Backend& inner) : inner_(inner) {}

  std::vector<Phase> phases;

  std::string name() const override { return inner_.name(); }
  DType operand_dtype() const override { return inner_.operand_dtype(); }
  DType weight_dtype() const override { return inner_.weight_dtype(); }
  int threads() const override { return inner_.threads(); }
  void* allocate(int64_t bytes) override { return inner_.allocate(bytes); }
  void release(void* memory, int64_t bytes) noexcept override { inner_.release(memory, bytes); }
  void upload(void* device, const void* host, int64_t bytes) override {
    inner_.upload(device, host, bytes);
  }
  void download(void* host, const void* device, int64_t bytes) override {
    inner_.download(host, device, bytes);
  }
  void copy(void* to, const void* from, int64_t bytes) override { inner_.copy(to, from, bytes); }
  void finish() override { inner_.finish(); }
  bool records() const override { return false; }
  int64_t row_stride(int64_t cols, DType dtype) const override {
    return inner_.row_stride(cols, dtype);
  }
  int64_t padded_rows(int64_t rows) const override { return inner_.padded_rows(rows); }
  int64_t weight_bytes(int64_t n, int64_t k, DType stored) const override {
    return inner_.weight_bytes(n, k, stored);
  }
  int64_t query_bytes(int64_t heads, int64_t tokens, int64_t dim) const override {
    return inner_.query_bytes(heads, tokens, dim);
  }
  int64_t slot_bytes(int64_t heads, int64_t tokens, int64_t dim) const override {
    return inner_.slot_bytes(heads, tokens, dim);
  }
  void pack_weight(const float* w, int64_t n, int64_t k, DType stored, void* packed) override {
    inner_.pack_weight(w, n, k, stored, packed);
  }

  void matmul(const MatmulArgs& a) override {
    time("matmul " + std::to_string(a.k) + " to " + std::to_string(a.n), &Backend::matmul, a);
  }
  void norm_modulate(const NormModulateArgs& a) override {
    time("norm and modulate", &Backend::norm_modulate, a);
  }
  void qkv_split(const QkvSplitArgs& a) override {
    time("split, QK-norm, RoPE", &Backend::qkv_split, a);
  }
  void gather(const GatherArgs& a) override { time("gather", &Backend::gather, a); }
  void attention(const AttentionArgs& a) override { time("attention", &Backend::attention, a); }
  void sampler(const SamplerArgs& a) override { time("sampler", &Backend::sampler, a); }
  void patchify(const PatchifyArgs& a) override { time("patchify", &Backend::patchify, a); }
  void unpatchify(const UnpatchifyArgs& a) override { time("unpatchify", &Backend::unpatchify, a); }

 protected:
  void replay(std::unique_ptr<Recording>&, void (*work)(const void*), const void* f) override {
    work(f);
  }

 private:
  template <class Args>
  void time(std::string op, void (Backend::*call)(const Args&), const Args& args) {
    const auto start = std::chrono::steady_clock::now();
    (inner_.*call)(args);
    inner_.finish();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    phases.emplace_back(std::move(op), took.count());
  }

  Backend& inner_;
};

// A noisy frame and its context, gathered once, as between two denoising steps of one frame.
struct WritePass {
  Model model;
  std::shared_ptr<Backend> b;
  const FrameDit& network;
  Buffer inputs;
  Workspace w;
  int pages;

  // images: [pages, height, width, 3]; transforms: their M, [pages, 4, 4]; x: [tokens, token_size]
  WritePass(const std::string& path, const std::string& device, const std::string& precision,
            int threads, const Images& images, const Array& transforms, const Array& x)
      : model(path, device, precision),
        b(model.make_session_backend(threads)),
        network(dynamic_cast<const FrameDit&>(model.network())),
        inputs(b, sizeof(StepInputs)),
        w(network.make_workspace(b, int(images.shape(0)),
                                 reinterpret_cast<const StepInputs*>(inputs.data()))),
        pages(int(images.shape(0))) {
    std::vector<Buffer> held;
    StepInputs step{};
    for (int i = 0; i < pages; ++i) {
      held.emplace_back(b, network.page_bytes(*b));
      step.pages[i] = step.page = held.back().data();
      std::copy_n(transforms.data(i), 16, step.transforms[i]);
      b->upload(inputs.data(), &step, sizeof step);
      read(images.data(i));
    }
    network.gather(*b, w, pages);
    w.x.upload(*b, x.data());
    update(*b, w.sampler_state(), 1.f, 0.f, 0.f, 0);  // the operand copy
    b->finish();
  }

  void read(const uint8_t* image) {
    const Manifest& m = model.manifest();
    const Buffer pixels(b, m.image_bytes());
    b->upload(pixels.data(), image, m.image_bytes());
    patchify(*b, {pixels.data(), m.image_height, m.image_width}, network.sizes().patch,
             w.x_operand);
    network.read(*b, w);
    b->finish();
  }
  Array run(float t) {
    network.write(*b, w, t, pages);
    Array x0({w.x0.view().rows, w.x0.view().cols});
    w.x0.download(*b, x0.mutable_data());
    return x0;
  }
  std::vector<Phase> phases(float t) {
    TimedBackend timed(*b);
    network.write(timed, w, t, pages);
    return timed.phases;
  }
};

}  // namespace

void bind_write_pass(py::module_& m) {
  py::class_<WritePass>(m, "WritePass")
      .def(py::init<const std::string&, const std::string&, const std::string&, int, const Images&,
                    const Array&, const Array&>(),
           py::arg("path"), py::arg("device"), py::arg("precision"), py::arg("threads"),
           py::arg("images"), py::arg("transforms"), py::arg("x"))
      .def_property_readonly("device", [](const WritePass& p) { return p.b->name(); })
      .def("run", &WritePass::run, py::arg("t"))
      .def("phases", &WritePass::phases, py::arg("t"));
}
