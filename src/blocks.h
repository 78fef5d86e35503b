// SPDX-License-Identifier: Apache-2.0
// Memory that copies share until one of them writes: what makes a fork of a world cheap.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

namespace rtfm {

// Equal blocks of memory. A copy costs O(1) and no block; the first write after it copies a table
// of pointers, and each block when it is written to. Copies may be used by different threads.
class Blocks {
 public:
  // Zero-filled memory. It outlives the Blocks that asked for it when copies share it.
  using Allocate = std::function<std::shared_ptr<std::byte>(int64_t bytes)>;
  static std::shared_ptr<std::byte> host(int64_t bytes);  // aligned to 64 bytes, untouched so far
  static std::shared_ptr<std::byte> touched(int64_t bytes);  // the same, in large pages, at once
  using Copy = std::function<void(std::byte* to, const std::byte* from)>;

  // All memory is taken at once, zero-filled.
  Blocks(int64_t count, int64_t bytes, Allocate allocate);

  const std::byte* operator[](int64_t block) const { return at_[block]; }

  // The block with what it holds (host memory only), with what `copy` brings of it where copies
  // share it, or with anything, to be written over. Pointers to a shared block are stale after
  // this.
  std::byte* write(int64_t block) { return alone(block) ? at_[block] : part(block, host_copy()); }
  std::byte* write(int64_t block, const Copy& copy) {
    return alone(block) ? at_[block] : part(block, copy);
  }
  std::byte* replace(int64_t block) { return alone(block) ? at_[block] : part(block, {}); }

 private:
  struct Table {
    std::vector<std::shared_ptr<std::byte>> owners;
    std::vector<std::byte*> at;  // theirs, closer together
  };

  bool alone(int64_t block) const {
    if (table_.use_count() != 1 || table_->owners[size_t(block)].use_count() != 1) return false;
    // after what the last sharer has read (ThreadSanitizer knows no fences and reports a race)
    std::atomic_thread_fence(std::memory_order_acquire);
    return true;
  }
  Copy host_copy() const;
  std::byte* part(int64_t block, const Copy& copy);

  int64_t bytes_;
  Allocate allocate_;
  std::shared_ptr<Table> table_;
  std::byte* const* at_;  // table_->at
};

// A fixed number of elements in such blocks. Zero-filled; host memory that is only touched as it is
// used.
template <class T>
class CowArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit CowArray(int64_t size, const Blocks::Allocate& allocate = Blocks::host)
      : blocks_((size + kItems - 1) / kItems, kItems * int64_t(sizeof(T)), allocate) {}

  const T& operator[](int64_t i) const {
    return reinterpret_cast<const T*>(blocks_[block(i)])[item(i)];
  }
  // References from before are stale after this, unless they came from write() too.
  T& write(int64_t i) { return reinterpret_cast<T*>(blocks_.write(block(i)))[item(i)]; }

 private:
  static constexpr int64_t items(int64_t bytes) { return bytes > 1 ? 2 * items(bytes / 2) : 1; }
  static constexpr int64_t kItems = items((int64_t{64} << 10) / int64_t(sizeof(T)));

  static constexpr int64_t block(int64_t i) { return int64_t(uint64_t(i) / kItems); }
  static constexpr int64_t item(int64_t i) { return int64_t(uint64_t(i) % kItems); }

  Blocks blocks_;
};

}  // namespace rtfm
