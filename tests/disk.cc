// SPDX-License-Identifier: Apache-2.0
// A disk that fails when told to and remembers the order of what it was asked: preloaded into the
// process of tests/test_world_disk.py, between SQLite and the system.
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

char watched[PATH_MAX];   // operations on paths that start like this count
int64_t operations = 0;   // so far
int64_t fails_from = 0;   // the first operation that fails, 0: none
int64_t fails_until = 0;  // ... and the last
bool read_only = false;
FILE* history = nullptr;

template <class F>
F real(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

const char* path_of(int fd, char* path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, PATH_MAX - 1);
  path[length < 0 ? 0 : length] = 0;
  return path;
}

bool matches(const char* path) {
  return watched[0] && strncmp(path, watched, strlen(watched)) == 0;
}

// One line of the history: kind, path, offset, bytes; then the bytes of a write.
bool refuses(const char* kind, const char* path, int64_t offset, const void* data, size_t bytes) {
  if (!matches(path)) return false;
  ++operations;
  if (fails_from && operations >= fails_from && operations <= fails_until) {
    errno = kind[0] == 'w' ? ENOSPC : EIO;
    return true;
  }
  if (history) {
    fprintf(history, "%s %lld %zu %s\n", kind, static_cast<long long>(offset), bytes, path);
    if (data) fwrite(data, 1, bytes, history);
    fflush(history);
  }
  return false;
}

}  // namespace

extern "C" {

void disk_watch(const char* prefix) {
  snprintf(watched, sizeof watched, "%s", prefix);
  operations = 0;
}
void disk_fail(int64_t from, int64_t until) { fails_from = from, fails_until = until; }
void disk_read_only(int on) { read_only = on; }
int64_t disk_operations() { return operations; }
void disk_record(const char* path) {
  if (history) fclose(history);
  history = path ? fopen(path, "wb") : nullptr;
}
// A line of the caller's own between operations.
void disk_note(const char* text) {
  fprintf(history, "note 0 0 %s\n", text);
  fflush(history);
}

int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const int mode = va_arg(rest, int);
  va_end(rest);
  if (read_only && matches(path) && (flags & (O_WRONLY | O_RDWR | O_CREAT))) {
    errno = EROFS;
    return -1;
  }
  if ((flags & O_CREAT) && access(path, F_OK) != 0 && refuses("create", path, 0, nullptr, 0))
    return -1;
  return real<int (*)(const char*, int, ...)>("open64")(path, flags, mode);
}
int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const int mode = va_arg(rest, int);
  va_end(rest);
  return open64(path, flags, mode);
}

ssize_t pwrite64(int fd, const void* data, size_t bytes, off64_t offset) {
  char path[PATH_MAX];
  if (refuses("write", path_of(fd, path), offset, data, bytes)) return -1;
  return real<ssize_t (*)(int, const void*, size_t, off64_t)>("pwrite64")(fd, data, bytes, offset);
}
ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
  return pwrite64(fd, data, bytes, offset);
}
int fsync(int fd) {
  char path[PATH_MAX];
  if (refuses("sync", path_of(fd, path), 0, nullptr, 0)) return -1;
  return real<int (*)(int)>("fsync")(fd);
}
int fdatasync(int fd) {
  char path[PATH_MAX];
  if (refuses("sync", path_of(fd, path), 0, nullptr, 0)) return -1;
  return real<int (*)(int)>("fdatasync")(fd);
}
int ftruncate64(int fd, off64_t length) {
  char path[PATH_MAX];
  if (refuses("truncate", path_of(fd, path), length, nullptr, 0)) return -1;
  return real<int (*)(int, off64_t)>("ftruncate64")(fd, length);
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }
int unlink(const char* path) {
  if (refuses("unlink", path, 0, nullptr, 0)) return -1;
  return real<int (*)(const char*)>("unlink")(path);
}

}  // extern "C"
