// SPDX-License-Identifier: Apache-2.0
// The two sums of a world file: SHA-256 and the CRC-32 of zlib.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace rtfm {

class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  std::string finish();  // hexadecimal, once

 private:
  static constexpr size_t kBlock = 64;
  void absorb(const std::byte* block);

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, kBlock> rest_;  // bytes_ % kBlock of them
  uint64_t bytes_ = 0;
};

// Of a file, such as a model's. Throws WorldError if it cannot be read to its end.
std::string sha256_of_file(const std::string& path);

// Goes on from the sum of what came before, 0 at the start.
uint32_t crc32(uint32_t before, std::span<const std::byte> bytes);

}  // namespace rtfm
