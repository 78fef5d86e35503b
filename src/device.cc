// SPDX-License-Identifier: Apache-2.0
#include "src/device.h"

#include <optional>
#include <stdexcept>

#include "src/check.h"

namespace rtfm {
namespace {

std::optional<DType> parse_precision(const std::string& precision) {
  if (precision == "auto") return std::nullopt;
  if (precision == "float32") return DType::f32;
  if (precision == "bfloat16") return DType::bf16;
  if (precision == "float8") return DType::e4m3;
  if (precision == "int8") return DType::i8;
  fail<DeviceError>("precision: expected auto, float32, bfloat16, float8 or int8, got '", precision,
                    "'");
}

}  // namespace

std::shared_ptr<Backend> make_backend(const std::string& device, const std::string& precision,
                                      int threads, const std::string& cublas) {
  const std::optional<DType> dtype = parse_precision(precision);
  const size_t colon = device.find(':');
  const std::string kind = device.substr(0, colon);
  const std::string which = colon == std::string::npos ? "" : device.substr(colon + 1);
  const bool whole = colon == std::string::npos;
  check<DeviceError>(
      (kind == "auto" && whole) || ((kind == "cpu" || kind == "cuda") && (whole || !which.empty())),
      "device: expected auto, cpu, cpu:TIER, cuda or cuda:N, got '", device, "'");
  if (kind != "cpu") try {
      return make_cuda_backend(which, dtype, cublas);
    } catch (const BackendError& error) {
      if (kind == "cuda")
        fail<DeviceError>("device '", device, "': ", error.what(), "; or use 'cpu' or 'auto'");
    }
  try {
    return make_cpu_backend(which, dtype, threads);
  } catch (const std::invalid_argument& error) {
    fail<DeviceError>("device '", device, "': ", error.what());
  }
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::e4m3:
      return "float8";
    case DType::i8:
      return "int8";
  }
  return "";
}

std::string precision_name(const Backend& backend) { return name_of(backend.weight_dtype()); }

}  // namespace rtfm
