// SPDX-License-Identifier: Apache-2.0
#include "src/blocks.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "csrc/os/os.h"

namespace rtfm {
namespace {

// From the system, which zeroes it as it is used and has all of it back on release. A heap keeps
// it, and to zero it for the next session touches what that may never use.
std::shared_ptr<std::byte> mapped(size_t bytes) {
  return {static_cast<std::byte*>(os::map(bytes)),
          [bytes](std::byte* at) { os::unmap(at, bytes); }};
}

// The first aligned address of memory with room for that.
std::shared_ptr<std::byte> aligned(const std::shared_ptr<std::byte>& owner, size_t alignment) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(owner.get());
  return {owner, owner.get() + (alignment - at % alignment) % alignment};
}

}  // namespace

std::shared_ptr<std::byte> Blocks::host(int64_t bytes) {
  constexpr int64_t kMapped = int64_t{128} << 10;  // tables that a branch copies: 64 KiB
  if (bytes >= kMapped) return mapped(size_t(bytes));
  constexpr size_t kAlignment = 64;
  void* memory = std::calloc(size_t(bytes) + kAlignment, 1);
  if (!memory) throw std::bad_alloc();
  return aligned({static_cast<std::byte*>(memory), std::free}, kAlignment);
}

std::shared_ptr<std::byte> Blocks::touched(int64_t bytes) {
  constexpr int64_t kLargePage = int64_t{2} << 20;
  if (bytes < 2 * kLargePage) return host(bytes);
  std::shared_ptr<std::byte> memory = aligned(host(bytes + kLargePage), kLargePage);
  os::prefer_large_pages(memory.get(), size_t(bytes));
  std::memset(memory.get(), 0, size_t(bytes));
  return memory;
}

Blocks::Blocks(int64_t count, int64_t bytes, Allocate allocate)
    : bytes_(bytes), allocate_(std::move(allocate)), table_(std::make_shared<Table>()) {
  const std::shared_ptr<std::byte> all = allocate_(count * bytes);
  table_->owners.reserve(size_t(count));
  table_->at.reserve(size_t(count));
  for (int64_t i = 0; i < count; ++i) {
    std::byte* block = all.get() + i * bytes;
    table_->at.push_back(block);
    table_->owners.emplace_back(block, [all](std::byte*) {});  // counts who shares this one
  }
  at_ = table_->at.data();
}

Blocks::Copy Blocks::host_copy() const {
  return [bytes = bytes_](std::byte* to, const std::byte* from) {
    std::memcpy(to, from, size_t(bytes));
  };
}

std::byte* Blocks::part(int64_t block, const Copy& copy) {
  if (table_.use_count() != 1) {
    table_ = std::make_shared<Table>(*table_);
    at_ = table_->at.data();
  }
  if (alone(block)) return at_[block];
  std::shared_ptr<std::byte> own = allocate_(bytes_);
  if (copy) copy(own.get(), at_[block]);
  table_->at[size_t(block)] = own.get();
  table_->owners[size_t(block)] = std::move(own);
  return at_[block];
}

}  // namespace rtfm
