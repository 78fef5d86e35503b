// SPDX-License-Identifier: Apache-2.0
// How the runtime refuses: one exception type per kind of cause, one line that says expected and
// got.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace rtfm {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct ArgumentError : Error {  // an image, `out=`, intrinsics or an option
  using Error::Error;
};
struct PoseError : ArgumentError {
  using ArgumentError::ArgumentError;
};
struct ModelError : Error {  // a model file
  using Error::Error;
};
struct WorldError : Error {  // the state of a session or of a world file
  using Error::Error;
};
struct DeviceError : Error {  // an unknown, missing or lost device
  using Error::Error;
};

template <class E, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw E(message.str());
}

// Evaluates the message parts even on success: keep them cheap.
template <class E, class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]]
    fail<E>(parts...);
}

}  // namespace rtfm
