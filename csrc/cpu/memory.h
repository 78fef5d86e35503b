// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace rtfm::cpu {

constexpr int64_t kAlignment = 64;  // of what allocate returns, and of rows: a cache line

// Zero-filled memory that costs address space only until it is used. Throws std::bad_alloc.
void* allocate(int64_t bytes);
void release(void* memory, int64_t bytes) noexcept;

}  // namespace rtfm::cpu
