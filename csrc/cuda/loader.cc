// SPDX-License-Identifier: Apache-2.0
#include "csrc/cuda/loader.h"

#include <charconv>
#include <filesystem>

#include "csrc/os/os.h"

namespace rtfm::cuda {
namespace {

constexpr int kDriver = 13000;  // CUDA 13.0, which driver 580 brings
constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE

std::string version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

#if defined(_WIN32)
constexpr const char *kDriverLibrary = "nvcuda.dll", *kOwnLibrary = "rtfm_cuda.dll";
#else
constexpr const char *kDriverLibrary = "libcuda.so.1", *kOwnLibrary = "librtfm_cuda.so";
#endif

// "" if the driver answers and is new enough.
std::string driver_problem() {
  std::string why;
  void* driver = os::open_library(kDriverLibrary, why);
  if (!driver)
    return "no NVIDIA driver answers (" + why + "); install driver 580 (CUDA 13.0) or newer";
  const auto get_version = reinterpret_cast<int (*)(int*)>(os::find(driver, "cuDriverGetVersion"));
  const auto init = reinterpret_cast<int (*)(unsigned)>(os::find(driver, "cuInit"));
  int number = 0;
  if (!get_version || !init || get_version(&number) != 0)
    return "the NVIDIA driver does not say its version; install driver 580 (CUDA 13.0) or newer";
  if (number < kDriver)
    return "expected a driver for CUDA " + version(kDriver) + " or newer, got one for " +
           version(number) + "; install driver 580 (CUDA 13.0) or newer";
  const int status = init(0);
  if (status == kNoDevice)
    return "the driver (CUDA " + version(number) + ") sees no GPU; check CUDA_VISIBLE_DEVICES";
  if (status != 0)
    return "the driver (CUDA " + version(number) + ") could not start: error " +
           std::to_string(status);
  return "";
}

const Api* find_api(std::string& problem) {
  const std::string path = os::own_folder() + "/" + kOwnLibrary;
  std::error_code none;
  if (!std::filesystem::exists(os::to_path(path), none)) {
    problem = "this build has no CUDA backend (" + path + "); build it where nvcc 13 is";
    return nullptr;
  }
  std::string why;
  void* library = os::open_library(path, why);
  if (!library) {
    problem = "the CUDA backend does not load (" + why + ")";
    return nullptr;
  }
  const auto function = reinterpret_cast<ApiFunction>(os::find(library, "rtfm_cuda_api"));
  const Api* api = function ? function(kAbi) : nullptr;
  if (!api) problem = path + " is from another build; install rtfm_rt again";
  return api;
}

}  // namespace

Library open_library(const char* number) {
  const std::string which = number;
  Library library;
  const char* end = which.data() + which.size();
  const auto parsed = std::from_chars(which.data(), end, library.device);
  if (!which.empty() && (parsed.ec != std::errc() || parsed.ptr != end || library.device < 0)) {
    library.problem = "expected cuda, or cuda:N with a number, got 'cuda:" + which + "'";
    return library;
  }
  library.name = "cuda:" + std::to_string(library.device);
  library.problem = driver_problem();
  if (!library.problem.empty()) return library;
  const Api* api = find_api(library.problem);
  if (!api) return library;
  const int32_t count = api->device_count();
  if (library.device < count)
    library.api = api;
  else if (count == 0)
    library.problem = "the CUDA runtime finds no GPU; check CUDA_VISIBLE_DEVICES";
  else
    library.problem = "expected a device below " + std::to_string(count) +
                      " (as many GPUs answer), got " + std::to_string(library.device);
  return library;
}

}  // namespace rtfm::cuda
