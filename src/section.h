// SPDX-License-Identifier: Apache-2.0
// One JSON object of a manifest, read with distrust: every access checks type and range.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "src/json.h"

namespace rtfm {

// Throws ModelError naming the key for whatever is not as expected. `json` outlives it.
class Section {
 public:
  Section(const Json& json, std::string path);  // path: its name in messages, "camera."

  // Refuses missing and unknown keys.
  void has_exactly(const std::vector<std::string_view>& keys) const;

  bool has(std::string_view key) const { return json_.find(key); }
  const Json& at(std::string_view key) const;
  Section section(std::string_view key) const { return {at(key), path_ + std::string(key) + "."}; }
  int64_t integer(std::string_view key, int64_t min, int64_t max) const;
  int size(std::string_view key, int min, int max) const {
    return static_cast<int>(integer(key, min, max));
  }
  double number(std::string_view key, double min, double max) const;
  std::vector<double> numbers(std::string_view key, size_t count, double min, double max) const;
  std::string text(std::string_view key) const;  // 1..256 bytes, no control characters
  void is(std::string_view key, std::string_view expected) const;  // a text
  const Json::Array& array(std::string_view key) const;
  std::string label(std::string_view key) const {
    return "manifest " + path_ + std::string(key) + ": ";
  }

 private:
  std::string where() const;

  const Json& json_;
  std::string path_;
};

}  // namespace rtfm
