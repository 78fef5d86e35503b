// SPDX-License-Identifier: Apache-2.0
// The passes of a model that goes by actions, one at a time, pages as their bytes: bound by
// internals.cc.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "src/check.h"
#include "src/model.h"

namespace py = pybind11;
using namespace rtfm;

namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Pages = std::vector<std::pair<int64_t, Bytes>>;  // id of its frame, page

struct TestPasses {
  Model model;
  std::shared_ptr<Backend> b;
  std::unique_ptr<Passes> passes;
  int64_t page_bytes;
  std::vector<Buffer> held;  // the context, and last the page that a pass fills

  TestPasses(const std::string& path, const std::string& device, const std::string& precision,
             int threads, int context)
      : model(path, device, precision),
        b(model.make_session_backend(threads)),
        passes(model.network().make_passes(b, context)),
        page_bytes(model.network().page_bytes(*b)) {
    for (int i = 0; i <= context; ++i) held.emplace_back(b, page_bytes);
  }

  void prepare(uint64_t frame, const std::vector<float>& actions, const Pages& pages, bool fill,
               int steps, uint64_t seed) {
    check<Error>(pages.size() < held.size(), "too many pages");
    std::vector<ContextPage> context;
    for (size_t i = 0; i < pages.size(); ++i) {
      check<Error>(pages[i].second.size() == page_bytes, "a page of another size");
      b->upload(held[i].data(), pages[i].second.data(), page_bytes);
      context.push_back({held[i].data(), Mat4{}, pages[i].first});
    }
    passes->prepare({.context = context, .actions = actions, .seed = seed, .frame = frame},
                    fill ? held.back().data() : nullptr, steps);
  }
  Bytes page() const {
    Bytes bytes(page_bytes);
    b->download(bytes.mutable_data(), held.back().data(), page_bytes);
    return bytes;
  }

  Bytes write(uint64_t frame, const std::vector<float>& actions, const Pages& pages, int steps,
              uint64_t seed) {
    prepare(frame, actions, pages, false, steps, seed);
    passes->write(int(pages.size()), steps);
    const Manifest& m = model.manifest();
    Bytes images({int64_t(m.images), int64_t(m.image_height), int64_t(m.image_width), int64_t{3}});
    b->download(images.mutable_data(), passes->image().data(), passes->image().bytes());
    return images;
  }
  Bytes read(const Bytes& images, uint64_t frame, const std::vector<float>& actions,
             const Pages& pages) {
    check<Error>(images.size() == passes->image().bytes(), "images of another size");
    b->upload(passes->image().data(), images.data(), images.size());
    prepare(frame, actions, pages, true, 0, 0);
    passes->read(int(pages.size()));
    return page();
  }
  Bytes keep(uint64_t frame, const std::vector<float>& actions, const Pages& pages) {
    prepare(frame, actions, pages, true, 0, 0);
    passes->keep(int(pages.size()));
    return page();
  }
  Bytes renew(const Bytes& old, uint64_t frame, const Pages& pages) {
    check<Error>(old.size() == page_bytes, "a page of another size");
    b->upload(held.back().data(), old.data(), page_bytes);
    prepare(frame, {}, pages, true, 0, 0);
    passes->renew(int(pages.size()));
    return page();
  }
};

}  // namespace

void bind_passes(py::module_& m) {
  py::class_<TestPasses>(m, "Passes")
      .def(py::init<const std::string&, const std::string&, const std::string&, int, int>(),
           py::arg("path"), py::arg("device"), py::arg("precision") = "auto",
           py::arg("threads") = 0, py::arg("context"))
      .def_property_readonly("precision", [](const TestPasses& p) { return p.model.precision(); })
      .def("write", &TestPasses::write, py::arg("frame"), py::arg("actions"), py::arg("pages"),
           py::arg("steps"), py::arg("seed"))
      .def("read", &TestPasses::read, py::arg("images"), py::arg("frame"), py::arg("actions"),
           py::arg("pages"))
      .def("keep", &TestPasses::keep, py::arg("frame"), py::arg("actions"), py::arg("pages"))
      .def("renew", &TestPasses::renew, py::arg("page"), py::arg("frame"), py::arg("pages"));
}
