// SPDX-License-Identifier: Apache-2.0
#include "csrc/cpu/memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "csrc/os/os.h"

namespace rtfm::cpu {
namespace {

// Blocks of this size come from the system, which zeroes them as they are used and has all of them
// back on release: a heap would keep, in between the weights of a model, what reading them took.
constexpr int64_t kLarge = int64_t{256} << 10;

// The pointer that calloc returned lies just before ours.
void* from_heap(int64_t bytes) {
  void* block = std::calloc(size_t(bytes + kAlignment + int64_t(sizeof(void*))), 1);
  if (!block) throw std::bad_alloc();
  const uintptr_t at = reinterpret_cast<uintptr_t>(block) + sizeof(void*) + kAlignment - 1;
  void* memory = reinterpret_cast<void*>(at / kAlignment * kAlignment);
  std::memcpy(static_cast<char*>(memory) - sizeof(void*), &block, sizeof(void*));
  return memory;
}

void to_heap(void* memory) noexcept {
  void* block;
  std::memcpy(&block, static_cast<char*>(memory) - sizeof(void*), sizeof(void*));
  std::free(block);
}

}  // namespace

void* allocate(int64_t bytes) { return bytes < kLarge ? from_heap(bytes) : os::map(size_t(bytes)); }

void release(void* memory, int64_t bytes) noexcept {
  if (!memory) return;
  if (bytes < kLarge)
    to_heap(memory);
  else
    os::unmap(memory, size_t(bytes));
}

}  // namespace rtfm::cpu
