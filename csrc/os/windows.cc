// SPDX-License-Identifier: Apache-2.0
#ifndef NOMINMAX
#define NOMINMAX
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
// after it
#include <fcntl.h>
#include <io.h>
#include <process.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

#include "csrc/os/os.h"

namespace rtfm::os {
namespace {

HANDLE handle(int descriptor) { return reinterpret_cast<HANDLE>(_get_osfhandle(descriptor)); }

int64_t joined(DWORD high, DWORD low) { return int64_t(uint64_t{high} << 32 | low); }

}  // namespace

void* map(size_t bytes) {
  void* memory = VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  if (!memory) throw std::bad_alloc();
  return memory;
}

void unmap(void* memory, size_t) noexcept { VirtualFree(memory, 0, MEM_RELEASE); }

void prefer_large_pages(void*, size_t) noexcept {}  // they want a privilege

int64_t process() { return _getpid(); }

std::filesystem::path to_path(const std::string& name) {
  return std::u8string(name.begin(), name.end());
}

std::string to_name(const std::filesystem::path& path) {
  const std::u8string name = path.u8string();
  return std::string(name.begin(), name.end());
}

File::File(const std::string& name)
    : descriptor_(_wopen(to_path(name).c_str(), _O_RDONLY | _O_BINARY | _O_NOINHERIT)) {}

File::~File() {
  if (descriptor_ >= 0) _close(descriptor_);
}

File::File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

std::optional<File::Status> File::status() const {  // folders cannot be opened
  BY_HANDLE_FILE_INFORMATION info;
  if (GetFileType(handle(descriptor_)) != FILE_TYPE_DISK) return Status{Kind::other, 0, {}};
  if (!GetFileInformationByHandle(handle(descriptor_), &info)) {
    errno = EIO;
    return {};
  }
  const int64_t bytes = joined(info.nFileSizeHigh, info.nFileSizeLow);
  return Status{Kind::regular,
                bytes,
                {joined(info.nFileIndexHigh, info.nFileIndexLow), bytes,
                 joined(info.ftLastWriteTime.dwHighDateTime, info.ftLastWriteTime.dwLowDateTime),
                 info.dwVolumeSerialNumber}};
}

int64_t File::read(void* to, int64_t bytes, int64_t at) const {
  int64_t read = 0;
  while (read < bytes) {
    const int64_t from = at + read;
    OVERLAPPED place{};
    place.Offset = DWORD(from), place.OffsetHigh = DWORD(from >> 32);
    const DWORD most = DWORD(std::min<int64_t>(bytes - read, int64_t{1} << 30));
    DWORD got = 0;
    if (!ReadFile(handle(descriptor_), static_cast<char*>(to) + read, most, &got, &place) &&
        GetLastError() != ERROR_HANDLE_EOF) {
      errno = EIO;
      return -1;
    }
    if (got == 0) break;
    read += got;
  }
  return read;
}

void* open_library(const std::string& name, std::string& problem) {
  void* library = reinterpret_cast<void*>(LoadLibraryW(to_path(name).c_str()));
  if (!library) problem = std::system_category().message(int(GetLastError()));
  return library;
}

void* find(void* library, const char* function) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), function));
}

std::string own_folder() {
  HMODULE own;
  wchar_t name[32768];
  constexpr DWORD kByAddress =
      GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
  if (!GetModuleHandleExW(kByAddress, reinterpret_cast<LPCWSTR>(&own_folder), &own)) return ".";
  const DWORD length = GetModuleFileNameW(own, name, DWORD(std::size(name)));
  return to_name(std::filesystem::path(name, name + length).parent_path());
}

}  // namespace rtfm::os
