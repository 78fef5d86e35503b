// SPDX-License-Identifier: Apache-2.0
#include "src/section.h"

#include <algorithm>
#include <utility>

#include "src/check.h"

namespace rtfm {

Section::Section(const Json& json, std::string path) : json_(json), path_(std::move(path)) {
  if (!json.as<Json::Object>())
    fail<ModelError>("manifest ", where(), "expected an object, got ", json.type());
}

std::string Section::where() const {
  return path_.empty() ? "" : path_.substr(0, path_.size() - 1) + ": ";
}

void Section::has_exactly(const std::vector<std::string_view>& keys) const {
  for (const auto& key : keys) at(key);
  for (const auto& [key, value] : *json_.as<Json::Object>())
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      fail<ModelError>("manifest ", where(), "unknown key ", in_quotes(key),
                       "; the file may need a newer rtfm_rt");
}

const Json& Section::at(std::string_view key) const {
  const Json* value = json_.find(key);
  if (!value) fail<ModelError>("manifest ", where(), "key ", in_quotes(key), " is missing");
  return *value;
}

int64_t Section::integer(std::string_view key, int64_t min, int64_t max) const {
  const int64_t* value = at(key).as<int64_t>();
  if (!value) fail<ModelError>(label(key), "expected an integer, got ", at(key).type());
  if (*value < min || *value > max)
    fail<ModelError>(label(key), "expected ", min, "..", max, ", got ", *value);
  return *value;
}

double Section::number(std::string_view key, double min, double max) const {
  const Json& value = at(key);
  const int64_t* whole = value.as<int64_t>();
  const double* real = value.as<double>();
  if (!whole && !real) fail<ModelError>(label(key), "expected a number, got ", value.type());
  const double x = whole ? static_cast<double>(*whole) : *real;
  if (!(x >= min && x <= max))
    fail<ModelError>(label(key), "expected ", min, "..", max, ", got ", x);
  return x;
}

std::vector<double> Section::numbers(std::string_view key, size_t count, double min,
                                     double max) const {
  const Json::Array& values = array(key);
  std::vector<double> result;
  for (const Json& value : values) {
    const int64_t* whole = value.as<int64_t>();
    const double* real = value.as<double>();
    if (whole || real) result.push_back(whole ? static_cast<double>(*whole) : *real);
  }
  const bool good =
      values.size() == count && result.size() == count &&
      std::all_of(result.begin(), result.end(), [&](double x) { return x >= min && x <= max; });
  if (!good) fail<ModelError>(label(key), "expected ", count, " numbers in ", min, "..", max);
  return result;
}

std::string Section::text(std::string_view key) const {
  const std::string* value = at(key).as<std::string>();
  if (!value) fail<ModelError>(label(key), "expected a string, got ", at(key).type());
  const bool plain = std::all_of(value->begin(), value->end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && c != 0x7F;
  });
  if (value->empty() || value->size() > 256 || !plain)
    fail<ModelError>(label(key), "expected 1 to 256 bytes of plain text, got ", in_quotes(*value));
  return *value;
}

void Section::is(std::string_view key, std::string_view expected) const {
  const std::string value = text(key);
  if (value != expected)
    fail<ModelError>(label(key), "expected ", in_quotes(expected), ", got ", in_quotes(value),
                     "; the file may need a newer rtfm_rt");
}

const Json::Array& Section::array(std::string_view key) const {
  const Json::Array* value = at(key).as<Json::Array>();
  if (!value) fail<ModelError>(label(key), "expected an array, got ", at(key).type());
  return *value;
}

}  // namespace rtfm
