// SPDX-License-Identifier: Apache-2.0
#include "src/model.h"

#include <filesystem>

#include "cpp/convert.h"
#include "csrc/os/os.h"
#include "src/digest.h"

namespace rtfm_rt {
namespace {

// Zeros where there is none.
std::array<std::int64_t, 4> stamp_of(const std::string& path) {
  const rtfm::os::File file(path);
  return file ? file.status().value_or(rtfm::os::File::Status{}).stamp
              : std::array<std::int64_t, 4>{};
}

}  // namespace

Model::Model(const std::string& path, const ModelOptions& options)
    : impl_(std::make_shared<Impl>()) {
  translated([&] {
    std::error_code none;  // the file is found wherever the process goes from here
    const std::string file =
        rtfm::os::to_name(std::filesystem::absolute(rtfm::os::to_path(path), none));
    impl_->stamp = stamp_of(file);  // before it is read: what changes meanwhile is another file
    impl_->model = std::make_shared<rtfm::Model>(none ? path : file, options.device,
                                                 options.precision, options.cublas);
  });
}

const std::string& Model::path() const { return impl_->model->path(); }
const std::string& Model::name() const { return impl_->model->manifest().name; }
const std::string& Model::licence() const { return impl_->model->manifest().licence; }
const std::string& Model::manifest() const { return impl_->model->manifest_json(); }
int Model::images() const { return impl_->model->manifest().images; }
int Model::height() const { return impl_->model->manifest().image_height; }
int Model::width() const { return impl_->model->manifest().image_width; }
Intrinsics Model::intrinsics() const {
  return {impl_->model->manifest().fx, impl_->model->manifest().fy};
}
std::string Model::device() const { return impl_->model->device(); }
std::string Model::precision() const { return impl_->model->precision(); }
std::string Model::cublas() const { return impl_->model->backend()->cublas(); }
std::int64_t Model::parameters() const { return impl_->model->parameters(); }

std::vector<ActionRange> Model::actions() const {
  std::vector<ActionRange> ranges;
  for (const rtfm::Action& a : impl_->model->manifest().actions)
    ranges.push_back({a.name, a.min, a.max});
  return ranges;
}

std::string Model::sha256() const {
  return translated([&] {
    std::call_once(impl_->once, [&] {
      std::string digest = rtfm::sha256_of_file(path());
      rtfm::check<rtfm::WorldError>(
          stamp_of(path()) == impl_->stamp, path(),
          ": expected the file that the model was loaded from, whose SHA-256 a world file holds, ",
          "got it changed; keep it until Model::sha256 or save has read it");
      impl_->sha256 = std::move(digest);
    });
    return impl_->sha256;
  });
}

}  // namespace rtfm_rt
