// SPDX-License-Identifier: Apache-2.0
// What the runtime asks of the operating system. Names of files are UTF-8.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace rtfm::os {

// Memory, zeroed as it is used, all of which goes back with `unmap`. Throws std::bad_alloc.
void* map(size_t bytes);
void unmap(void* memory, size_t bytes) noexcept;
void prefer_large_pages(void* memory, size_t bytes) noexcept;

int64_t process();  // the number of this one

std::filesystem::path to_path(const std::string& name);
std::string to_name(const std::filesystem::path& path);

// One that is open to be read. After what fails, errno says why.
class File {
 public:
  enum class Kind { regular, folder, other };
  struct Status {
    Kind kind;
    int64_t bytes;
    std::array<int64_t, 4> stamp;  // never the same when the file was changed or replaced
  };

  File() = default;
  explicit File(const std::string& name);  // does not wait, as for the writer of a pipe
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  explicit operator bool() const { return descriptor_ >= 0; }
  std::optional<Status> status() const;
  // How many bytes came, fewer at the end of the file only; below 0 for none.
  int64_t read(void* to, int64_t bytes, int64_t at) const;

 private:
  int descriptor_ = -1;
};

// A library, which stays open; null where it cannot be, and `problem` says why.
void* open_library(const std::string& name, std::string& problem);
void* find(void* library, const char* function);

std::string own_folder();  // of the library or program that this is part of

}  // namespace rtfm::os
