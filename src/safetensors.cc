// SPDX-License-Identifier: Apache-2.0
#include "src/safetensors.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "src/check.h"
#include "src/json.h"

namespace rtfm {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are read as they are stored");

constexpr int64_t kMaxHeader = int64_t{4} << 20;  // a model of 128 layers needs 0.2 MB
constexpr size_t kMaxRank = 8;

// Runs `work`; what it refuses gets the file's name in front.
template <class Work>
auto naming(const std::string& path, Work work) {
  try {
    return work();
  } catch (const ModelError& error) {
    fail<ModelError>(path, ": ", error.what());
  } catch (const std::bad_alloc&) {
    fail<ModelError>(path, ": expected a file that fits in memory, got one that does not");
  }
}

void refuse_pickle(const std::byte* start) {
  const bool zip = start[0] == std::byte{'P'} && start[1] == std::byte{'K'};
  if (zip || start[0] == std::byte{0x80})
    fail<ModelError>(
        "expected a .safetensors file, got a pickle; convert it with rtfm-rt convert, which says "
        "how to turn it into .safetensors first");
}

int64_t integer(const Json& value, const char* what) {
  const int64_t* i = value.as<int64_t>();
  if (!i || *i < 0)
    fail<ModelError>(what, ": expected an integer >= 0, got ", i ? "a negative one" : value.type());
  return *i;
}

TensorType parse_dtype(const Json& value) {
  const std::string* name = value.as<std::string>();
  if (!name) fail<ModelError>("dtype: expected a string, got ", value.type());
  if (*name == "F32") return TensorType::f32;
  if (*name == "F16") return TensorType::f16;
  if (*name == "BF16") return TensorType::bf16;
  fail<ModelError>("dtype: expected F32, F16 or BF16, got ", in_quotes(*name));
}

std::vector<int64_t> parse_shape(const Json& value) {
  const Json::Array* sizes = value.as<Json::Array>();
  if (!sizes) fail<ModelError>("shape: expected an array, got ", value.type());
  check<ModelError>(sizes->size() <= kMaxRank, "shape: expected a rank of at most ", kMaxRank,
                    ", got ", sizes->size());
  std::vector<int64_t> shape;
  for (const Json& size : *sizes) {
    shape.push_back(integer(size, "shape"));
    check<ModelError>(shape.back() > 0, "shape: expected sizes >= 1, got 0");
  }
  return shape;
}

// {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, within `data_bytes`.
TensorView parse_tensor(const Json& entry, int64_t data_bytes) {
  const Json *dtype = entry.find("dtype"), *shape = entry.find("shape");
  const Json* offsets = entry.find("data_offsets");
  const Json::Object* members = entry.as<Json::Object>();
  check<ModelError>(members && members->size() == 3 && dtype && shape && offsets,
                    "expected an object of dtype, shape and data_offsets, got ",
                    members ? "other keys" : entry.type());
  TensorView view{parse_dtype(*dtype), parse_shape(*shape), 0, 0};

  const Json::Array* pair = offsets->as<Json::Array>();
  check<ModelError>(pair && pair->size() == 2, "data_offsets: expected [begin, end], got ",
                    pair ? "an array of another length" : offsets->type());
  view.offset = integer((*pair)[0], "data_offsets");
  const int64_t end = integer((*pair)[1], "data_offsets");
  check<ModelError>(view.offset <= end && end <= data_bytes,
                    "data_offsets: expected begin <= end <= ", data_bytes, ", got [", view.offset,
                    ", ", end, "]; the file may be cut off");
  view.bytes = end - view.offset;

  int64_t bytes = size_of(view.dtype);
  for (const int64_t size : view.shape)
    if (__builtin_mul_overflow(bytes, size, &bytes))
      fail<ModelError>("shape: expected a product that fits 63 bits, got ", to_string(view.shape));
  if (bytes != view.bytes)
    fail<ModelError>("data_offsets: expected ", bytes, " bytes for shape ", to_string(view.shape),
                     ", got ", view.bytes);
  return view;
}

// The tensors, laid end to end, are the data part: no overlap, no hole, nothing after the last.
void check_layout(const std::map<std::string, TensorView, std::less<>>& tensors, int64_t bytes) {
  std::vector<std::pair<int64_t, const std::string*>> order;
  for (const auto& [name, view] : tensors) order.emplace_back(view.offset, &name);
  std::sort(order.begin(), order.end());
  int64_t end = 0;
  for (const auto& [offset, name] : order) {
    if (offset != end)
      fail<ModelError>("tensor ", in_quotes(*name), ": expected to begin at ", end, ", got ",
                       offset, offset < end ? " (an overlap)" : " (a hole)");
    end += tensors.at(*name).bytes;
  }
  check<ModelError>(end == bytes, "expected ", end, " bytes of tensors, got ", bytes,
                    " (trailing bytes)");
}

float from_f16(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16, exponent = half >> 10 & 31u;
  const uint32_t fraction = half & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float tiny = static_cast<float>(fraction) * 0x1p-24f;  // zero or subnormal
  return sign ? -tiny : tiny;
}

// Whether any of `count` unaligned words has all exponent bits set: NaN or infinity. Blocks of a
// fixed length let the compiler vectorise the inner loop.
template <class Word, Word kExponent>
bool any_non_finite(const std::byte* data, int64_t count) {
  constexpr int64_t kBlock = 1024;
  Word block[kBlock];
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t n = std::min(kBlock, count - i);
    if (n < kBlock) std::memset(block, 0, sizeof(block));
    std::memcpy(block, data + i * sizeof(Word), n * sizeof(Word));
    Word found = 0;
    for (int64_t j = 0; j < kBlock; ++j) found |= (block[j] & kExponent) == kExponent;
    if (found) return true;
  }
  return false;
}

bool any_non_finite(const TensorView& view, const std::byte* data) {
  switch (view.dtype) {
    case TensorType::f32:
      return any_non_finite<uint32_t, 0x7F800000u>(data, view.elements());
    case TensorType::f16:
      return any_non_finite<uint16_t, 0x7C00u>(data, view.elements());
    case TensorType::bf16:
      return any_non_finite<uint16_t, 0x7F80u>(data, view.elements());
  }
  return true;
}

}  // namespace

std::string to_string(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

Safetensors::Safetensors(const std::string& path) : path_(path) {
  naming(path_, [&] { read_header(); });
}

// All of the bytes.
void Safetensors::read(std::byte* to, int64_t bytes, int64_t at) const {
  const int64_t got = file_.read(to, bytes, at);
  check<ModelError>(got >= 0, "expected ", bytes, " bytes at ", at,
                    ", got: ", std::strerror(errno));
  check<ModelError>(got == bytes, "expected ", bytes - got, " more bytes at ", at + got,
                    ", got the end of the file: it changed while it was read");
}

void Safetensors::read_header() {
  check<ModelError>(path_.find('\0') == path_.npos, "expected a path without NUL bytes");
  file_ = os::File(path_);
  check<ModelError>(bool(file_), "expected a readable model file, got: ", std::strerror(errno));
  const auto status = file_.status();
  check<ModelError>(status.has_value(), "expected the file's size, got: ", std::strerror(errno));
  using Kind = os::File::Kind;
  check<ModelError>(status->kind == Kind::regular, "expected a model file, got ",
                    status->kind == Kind::folder ? "a directory" : "something that is not a file");
  file_bytes_ = status->bytes;
  check<ModelError>(file_bytes_ >= 8, "expected at least 8 bytes, got ", file_bytes_);
  std::byte start[8];
  read(start, 8, 0);
  uint64_t length;
  std::memcpy(&length, start, 8);
  const int64_t most = std::min(file_bytes_ - 8, kMaxHeader);
  if (length < 2 || length > static_cast<uint64_t>(most)) {
    refuse_pickle(start);
    fail<ModelError>("expected a header of 2 to ", most, " bytes, got ", length,
                     "; not a .safetensors file, or cut off");
  }

  std::string text(static_cast<size_t>(length), '\0');
  read(reinterpret_cast<std::byte*>(text.data()), static_cast<int64_t>(length), 8);
  check<ModelError>(text[0] == '{', "expected a header that begins with '{', got ",
                    in_quotes(text.substr(0, 1)));
  data_start_ = 8 + static_cast<int64_t>(length);
  const int64_t data_bytes = file_bytes_ - data_start_;

  const Json header = parse_json(text);
  for (const auto& [name, entry] : *header.as<Json::Object>()) {
    try {
      if (name != "__metadata__") {
        tensors_.emplace(name, parse_tensor(entry, data_bytes));
        continue;
      }
      const Json::Object* members = entry.as<Json::Object>();
      check<ModelError>(members, "expected an object, got ", entry.type());
      for (const auto& [key, value] : *members) {
        const std::string* string = value.as<std::string>();
        check<ModelError>(string, "expected strings only, got ", value.type());
        metadata_.emplace(key, *string);
      }
    } catch (const ModelError& error) {
      fail<ModelError>("tensor ", in_quotes(name), ": ", error.what());
    }
  }
  check_layout(tensors_, data_bytes);
}

// The bytes of one tensor, all of them finite numbers.
void Safetensors::read(std::string_view name, const TensorView& view, std::byte* to) const {
  naming(path_, [&] { read(to, view.bytes, data_start_ + view.offset); });
  if (any_non_finite(view, to))
    fail<ModelError>(path_, ": tensor ", in_quotes(std::string(name)),
                     ": expected finite numbers, got a NaN or an infinity");
}

std::vector<float> Safetensors::to_float(std::string_view name) const {
  std::vector<float> out;
  to_float(name, out);
  return out;
}

void Safetensors::to_float(std::string_view name, std::vector<float>& out) const {
  const auto at = tensors_.find(name);
  check<ModelError>(at != tensors_.end(), path_, ": expected tensor ",
                    in_quotes(std::string(name)));
  const TensorView& view = at->second;
  out.resize(static_cast<size_t>(view.elements()));
  std::byte* bytes = reinterpret_cast<std::byte*>(out.data() + out.size()) - view.bytes;
  read(name, view, bytes);
  if (view.dtype == TensorType::f32) return;
  // From the upper half to the whole: a block is out of it before anything is put in its place.
  uint16_t block[1024];
  for (size_t i = 0; i < out.size(); i += std::size(block)) {
    const size_t count = std::min(std::size(block), out.size() - i);
    std::memcpy(block, bytes + 2 * i, 2 * count);
    for (size_t j = 0; j < count; ++j)
      out[i + j] = view.dtype == TensorType::f16 ? from_f16(block[j])
                                                 : std::bit_cast<float>(uint32_t{block[j]} << 16);
  }
}

void Safetensors::check_numbers() const {
  std::vector<std::byte> bytes;
  for (const auto& [name, view] : tensors_) {
    bytes.resize(static_cast<size_t>(view.bytes));
    read(name, view, bytes.data());
  }
}

}  // namespace rtfm
