// SPDX-License-Identifier: Apache-2.0
// A strict reader for small JSON documents from untrusted files. Refuses what two readers could
// understand differently: duplicate keys, lone surrogates, bytes after the end.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace rtfm {

struct Json {
  struct Member;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;  // sorted by key, no duplicates

  // Integers that fit are int64_t; every other number is a finite double.
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> value;

  // The member, or null when this is not an object or has no such key.
  const Json* find(std::string_view key) const;

  template <class T>
  const T* as() const {  // null when the value is of another type
    return std::get_if<T>(&value);
  }
  const char* type() const;  // "null", "a boolean", "an integer", ...
};

struct Json::Member {
  std::string key;
  Json value;
};

// Throws ModelError naming the byte offset. Limits: depth 32, 65,536 values.
Json parse_json(std::string_view text);

// Untrusted text for a message: quoted, ASCII, at most 64 characters.
std::string in_quotes(std::string_view text);

}  // namespace rtfm
