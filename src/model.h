// SPDX-License-Identifier: Apache-2.0
// A model file, loaded onto a device.
#pragma once

#include <memory>
#include <string>

#include "src/families.h"

namespace rtfm {

// Immutable; shared by any number of sessions and threads.
class Model {
 public:
  // device, precision and cublas as make_backend takes them. Throws ModelError, DeviceError.
  Model(const std::string& path, const std::string& device, const std::string& precision,
        const std::string& cublas = "");

  const Manifest& manifest() const { return manifest_; }
  const std::string& manifest_json() const { return manifest_json_; }
  const std::string& path() const { return path_; }
  const Network& network() const { return *network_; }
  const std::shared_ptr<Backend>& backend() const { return backend_; }  // for memory only
  int64_t parameters() const { return parameters_; }
  std::string device() const;
  std::string precision() const;

  // An execution context of its own for one session, on the model's device. threads: 0 for all
  // CPUs.
  std::shared_ptr<Backend> make_session_backend(int threads) const;

 private:
  void load(const ModelFile& file);

  std::string path_, manifest_json_, cublas_;
  Manifest manifest_;
  int64_t parameters_;
  std::shared_ptr<Backend> backend_;
  std::unique_ptr<Network> network_;
};

}  // namespace rtfm
