// SPDX-License-Identifier: Apache-2.0
#include "src/json.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "src/check.h"

namespace rtfm {
namespace {

constexpr int kMaxDepth = 32;
constexpr int kMaxValues = 1 << 16;  // bounds time and memory whatever the text

bool is_digit(int c) { return c >= '0' && c <= '9'; }

// Length of the valid UTF-8 sequence at the start of `s` (1..4), or 0. Overlong forms, surrogates
// and code points above U+10FFFF are not valid.
size_t utf8_length(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4 || !tail(1)) return 0;
  if (first < 0xE0) return 2;
  if (!tail(2)) return 0;
  if (first == 0xE0 && second < 0xA0) return 0;
  if (first == 0xED && second > 0x9F) return 0;
  if (first < 0xF0) return 3;
  if (!tail(3)) return 0;
  if (first == 0xF0 && second < 0x90) return 0;
  if (first == 0xF4 && second > 0x8F) return 0;
  return 4;
}

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json result = value(0);
    skip_space();
    require(at_ == text_.size(), "the end of the text");
    return result;
  }

 private:
  [[noreturn]] void refuse(std::string_view expected) const {
    const std::string got =
        at_ < text_.size() ? in_quotes(text_.substr(at_, 1)) : std::string("the end of the text");
    fail<ModelError>("JSON, byte ", at_, ": expected ", expected, ", got ", got);
  }
  void require(bool ok, std::string_view expected) const {
    if (!ok) refuse(expected);
  }

  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }
  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void skip_space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
  }

  Json value(int depth) {
    skip_space();
    require(++values_ <= kMaxValues, "at most 65536 values");
    switch (peek()) {
      case '{':
        return {object(depth)};
      case '[':
        return {array(depth)};
      case '"':
        return {string()};
      case 't':
        return word("true", {true});
      case 'f':
        return word("false", {false});
      case 'n':
        return word("null", {nullptr});
      default:
        return number();
    }
  }

  Json word(std::string_view text, Json result) {
    require(text_.substr(at_, text.size()) == text, text);
    at_ += text.size();
    return result;
  }

  Json::Array array(int depth) {
    Json::Array items;
    require(depth < kMaxDepth, "at most 32 levels");
    ++at_;
    skip_space();
    if (accept(']')) return items;
    do {
      items.push_back(value(depth + 1));
      skip_space();
    } while (accept(','));
    require(accept(']'), "',' or ']'");
    return items;
  }

  Json::Object object(int depth) {
    Json::Object members;
    require(depth < kMaxDepth, "at most 32 levels");
    const size_t start = at_++;
    skip_space();
    if (accept('}')) return members;
    do {
      skip_space();
      require(peek() == '"', "a key in quotes");
      std::string key = string();
      skip_space();
      require(accept(':'), "':'");
      members.push_back({std::move(key), value(depth + 1)});
      skip_space();
    } while (accept(','));
    require(accept('}'), "',' or '}'");
    std::sort(members.begin(), members.end(),
              [](const auto& a, const auto& b) { return a.key < b.key; });
    const auto twice =
        std::adjacent_find(members.begin(), members.end(),
                           [](const auto& a, const auto& b) { return a.key == b.key; });
    if (twice != members.end())
      fail<ModelError>("JSON, object at byte ", start, ": expected every key once, got ",
                       in_quotes(twice->key), " twice");
    return members;
  }

  std::string string() {
    std::string out;
    ++at_;
    while (!accept('"')) {
      const int c = peek();
      require(c >= 0x20, "a character or the closing quote");
      if (c == '\\') {
        ++at_;
        escape(out);
        continue;
      }
      const size_t length = utf8_length(text_.substr(at_, 4));
      require(length > 0, "valid UTF-8");
      out.append(text_.substr(at_, length));
      at_ += length;
    }
    return out;
  }

  void escape(std::string& out) {
    constexpr std::string_view kCodes = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const int c = peek();
    const size_t simple = c < 0 ? kCodes.npos : kCodes.find(static_cast<char>(c));
    if (simple != kCodes.npos) {
      ++at_;
      out.push_back(kMeanings[simple]);
      return;
    }
    require(accept('u'), "an escape of JSON");
    uint32_t code = hex4();
    require(code < 0xDC00 || code > 0xDFFF, "a high surrogate before a low one");
    if (code >= 0xD800 && code <= 0xDBFF) {
      require(accept('\\') && accept('u'), "a low surrogate");
      const uint32_t low = hex4();
      require(low >= 0xDC00 && low <= 0xDFFF, "a low surrogate");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, code);
  }

  uint32_t hex4() {
    uint32_t code = 0;
    const char* first = text_.data() + std::min(at_, text_.size());
    const char* last = first + std::min<size_t>(4, text_.size() - at_);
    const auto [end, error] = std::from_chars(first, last, code, 16);
    require(error == std::errc() && end - first == 4, "four hexadecimal digits");
    at_ += 4;
    return code;
  }

  void digits() {
    require(is_digit(peek()), "a digit");
    while (is_digit(peek())) ++at_;
  }

  Json number() {
    const size_t start = at_;
    const bool negative = accept('-');
    require(is_digit(peek()), negative ? "a digit" : "a value");
    const bool zero = accept('0');
    if (zero)
      require(!is_digit(peek()), "no digit after a leading zero");
    else
      digits();
    bool integer = !(negative && zero);  // -0 is the double, as other readers have it
    if (accept('.')) {
      integer = false;
      digits();
    }
    if (accept('e') || accept('E')) {
      integer = false;
      if (!accept('+')) accept('-');
      digits();
    }
    const char* first = text_.data() + start;
    const char* last = text_.data() + at_;
    if (int64_t i; integer && std::from_chars(first, last, i).ec == std::errc()) return {i};
    double d = 0;
    const auto error = std::from_chars(first, last, d).ec;
    if (error != std::errc())
      fail<ModelError>("JSON, byte ", start, ": expected a number that fits a double, got ",
                       in_quotes(text_.substr(start, at_ - start)));
    return {d};
  }

  std::string_view text_;
  size_t at_ = 0;
  int values_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view key) const {
  const Object* members = as<Object>();
  if (!members) return nullptr;
  const auto at =
      std::lower_bound(members->begin(), members->end(), key,
                       [](const Member& member, std::string_view k) { return member.key < k; });
  return at != members->end() && at->key == key ? &at->value : nullptr;
}

const char* Json::type() const {
  constexpr const char* kTypes[] = {"null",     "a boolean", "an integer", "a number",
                                    "a string", "an array",  "an object"};
  return kTypes[value.index()];
}

Json parse_json(std::string_view text) { return Parser(text).document(); }

std::string in_quotes(std::string_view text) {
  constexpr size_t kMax = 64;
  std::string out = "'";
  for (const char c : text.substr(0, kMax)) out.push_back(c >= 0x20 && c < 0x7F ? c : '?');
  if (text.size() > kMax) out += "...";
  return out + "'";
}

}  // namespace rtfm
