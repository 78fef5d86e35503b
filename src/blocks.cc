// SPDX-License-Identifier: Apache-2.0
#include "src/blocks.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rtfm {

// calloc: large memory comes zeroed from the system and stays untouched until it is used.
std::shared_ptr<std::byte> Blocks::host(int64_t bytes) {
  constexpr size_t kAlignment = 64;
  size_t room = size_t(bytes) + kAlignment;
  void* memory = std::calloc(room, 1);
  if (!memory) throw std::bad_alloc();
  const std::shared_ptr<void> owner(memory, std::free);
  return {owner, static_cast<std::byte*>(std::align(kAlignment, size_t(bytes), memory, room))};
}

std::shared_ptr<std::byte> Blocks::touched(int64_t bytes) {
  constexpr int64_t kLargePage = int64_t{2} << 20;
  if (bytes < 2 * kLargePage) return host(bytes);
  void* memory =
      std::aligned_alloc(kLargePage, size_t(bytes + kLargePage - 1) / kLargePage * kLargePage);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  madvise(memory, size_t(bytes), MADV_HUGEPAGE);  // a hint
#endif
  std::memset(memory, 0, size_t(bytes));
  return {static_cast<std::byte*>(memory), std::free};
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
