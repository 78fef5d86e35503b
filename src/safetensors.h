// SPDX-License-Identifier: Apache-2.0
// A strict reader of .safetensors files that trusts nothing: every size is checked before memory is
// taken for it. Bytes are copied, never mapped, and one tensor at a time: weights that a device
// packs need no second copy of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "csrc/os/os.h"

namespace rtfm {

enum class TensorType : uint8_t { f32, f16, bf16 };

constexpr int64_t size_of(TensorType t) { return t == TensorType::f32 ? 4 : 2; }

struct TensorView {
  TensorType dtype;
  std::vector<int64_t> shape;  // rank <= 8, every size >= 1
  int64_t offset, bytes;       // in the data part of the file

  int64_t elements() const { return bytes / size_of(dtype); }
};

std::string to_string(const std::vector<int64_t>& shape);  // "[64, 256]"

// Holds one file open. Throws ModelError, starting with the path, for anything wrong.
class Safetensors {
 public:
  // Reads and checks the header only. Dtypes other than F32, F16 and BF16 are refused.
  explicit Safetensors(const std::string& path);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  int64_t file_bytes() const { return file_bytes_; }

  // A copy as f32, in the order stored; `to` keeps the memory that it has. Refuses NaN and
  // infinities.
  std::vector<float> to_float(std::string_view name) const;
  void to_float(std::string_view name, std::vector<float>& to) const;

  // Refuses NaN and infinities anywhere: reads everything.
  void check_numbers() const;

 private:
  void read_header();
  void read(std::byte* to, int64_t bytes, int64_t at) const;
  void read(std::string_view name, const TensorView& view, std::byte* to) const;

  std::string path_;
  os::File file_;
  int64_t file_bytes_ = 0, data_start_ = 0;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

}  // namespace rtfm
