// SPDX-License-Identifier: Apache-2.0
#include "src/model.h"

#include "src/device.h"

namespace rtfm {

Model::Model(const std::string& path, const std::string& device, const std::string& precision,
             const std::string& cublas)
    : path_(path), cublas_(cublas), backend_(make_backend(device, precision, 1, cublas)) {
  ModelFile file = load_model_file(path);
  manifest_ = file.manifest;
  manifest_json_ = file.manifest_json;
  parameters_ = file.parameters;
  try {
    load(file);
  } catch (const BackendError&) {  // the best device has no room for it
    if (device != "auto") throw;
    backend_ = make_backend("cpu", precision, 1);
    load(file);
  }
}

void Model::load(const ModelFile& file) {
  network_ = file.topology->build(manifest_, Weights{file.weights, backend_});
  backend_->finish();  // sessions read the weights through backends of their own
}

std::string Model::device() const { return backend_->name(); }

std::string Model::precision() const { return precision_name(*backend_); }

std::shared_ptr<Backend> Model::make_session_backend(int threads) const {
  return make_backend(device(), precision(), threads, cublas_);
}

}  // namespace rtfm
