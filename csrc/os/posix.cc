// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <utility>

#include "csrc/os/os.h"

namespace rtfm::os {

void* map(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

void unmap(void* memory, size_t bytes) noexcept { munmap(memory, bytes); }

void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) noexcept {
#if defined(MADV_HUGEPAGE)
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
}

int64_t process() { return getpid(); }

std::filesystem::path to_path(const std::string& name) { return name; }
std::string to_name(const std::filesystem::path& path) { return path.string(); }

File::File(const std::string& name)
    : descriptor_(::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File::File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

std::optional<File::Status> File::status() const {
  struct stat s;
  if (::fstat(descriptor_, &s) != 0) return {};
  const Kind kind = S_ISREG(s.st_mode)   ? Kind::regular
                    : S_ISDIR(s.st_mode) ? Kind::folder
                                         : Kind::other;
#if defined(__APPLE__)
  const timespec& changed = s.st_mtimespec;
#else
  const timespec& changed = s.st_mtim;
#endif
  return Status{kind, s.st_size, {int64_t(s.st_ino), s.st_size, changed.tv_sec, changed.tv_nsec}};
}

int64_t File::read(void* to, int64_t bytes, int64_t at) const {
  int64_t read = 0;
  while (read < bytes) {
    const ssize_t got =
        ::pread(descriptor_, static_cast<char*>(to) + read, size_t(bytes - read), at + read);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    read += got;
  }
  return read;
}

void* open_library(const std::string& name, std::string& problem) {
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library) return library;
  const char* why = dlerror();
  problem = why ? why : "no reason given";
  return nullptr;
}

void* find(void* library, const char* function) { return dlsym(library, function); }

std::string own_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&own_folder), &info) || !info.dli_fname) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

}  // namespace rtfm::os
