// SPDX-License-Identifier: Apache-2.0
// From a device's name to a backend.
#pragma once

#include <memory>
#include <string>

#include "csrc/backend.h"

namespace rtfm {

// device: "auto", "cpu", "cpu:TIER" (portable, avx2, avx512, avx512_bf16, amx, amx_int8, vnni,
// avx_vnni, sdot), "cuda" or "cuda:N". precision: "auto", "float32", "bfloat16", "float8" or
// "int8". threads: 0 for one per CPU. "auto" takes the best device there is; one that is named and
// missing is a DeviceError. cublas: for GPUs, the path of libcublasLt.so.13, or "" for none.
std::shared_ptr<Backend> make_backend(const std::string& device, const std::string& precision,
                                      int threads, const std::string& cublas = "");

const char* name_of(DType dtype);                    // "float32", ..., as precisions are called
std::string precision_name(const Backend& backend);  // of its weights

}  // namespace rtfm
