// SPDX-License-Identifier: Apache-2.0
#include "src/sqlite.h"

#include <new>

#include "csrc/os/os.h"
#include "src/check.h"

namespace rtfm {
namespace {

// As in sqlite3.h, whose interface and numbers never change.
constexpr int kOk = 0, kInternal = 2, kBusy = 5, kLocked = 6, kNoMemory = 7, kCorrupt = 11,
              kNotFound = 12, kSchema = 17, kRow = 100, kDone = 101;
constexpr int kReadWriteFlag = 0x2, kCreateFlag = 0x4;

struct Library {
  int (*open_v2)(const char* file, void** db, int flags, const char* vfs);
  int (*close_v2)(void* db);
  int (*busy_timeout)(void* db, int milliseconds);
  int (*get_autocommit)(void* db);
  const char* (*errmsg)(void* db);
  const char* (*errstr)(int code);
  int (*prepare_v2)(void* db, const char* sql, int bytes, void** statement, const char** rest);
  int (*bind_int64)(void* statement, int index, int64_t value);
  int (*bind_text)(void* statement, int index, const char* text, int bytes, void (*drop)(void*));
  int (*bind_blob64)(void* statement, int index, const void* blob, uint64_t bytes,
                     void (*drop)(void*));
  int (*step)(void* statement);
  int (*reset)(void* statement);
  int (*finalize)(void* statement);
  int (*column_type)(void* statement, int column);
  int64_t (*column_int64)(void* statement, int column);
  const unsigned char* (*column_text)(void* statement, int column);
  const void* (*column_blob)(void* statement, int column);
  int (*column_bytes)(void* statement, int column);
};

#if defined(_WIN32)
constexpr const char* kLibrary = "winsqlite3.dll";  // a part of Windows
constexpr const char* kInstall = "it comes with Windows 10 and later";
#elif defined(__APPLE__)
constexpr const char* kLibrary = "libsqlite3.dylib";  // a part of macOS
constexpr const char* kInstall = "it comes with macOS";
#else
constexpr const char* kLibrary = "libsqlite3.so.0";
constexpr const char* kInstall = "install it (Debian, Ubuntu: libsqlite3-0; Fedora: sqlite-libs)";
#endif

Library load_library() {
  std::string problem;
  void* handle = os::open_library(kLibrary, problem);
  const auto need = [&](const void* found, const char* name) {
    check<WorldError>(found != nullptr, "world files: expected SQLite's library ", kLibrary,
                      ", got ", handle ? "one without " : ": ", handle ? name : problem, "; ",
                      kInstall);
  };
  need(handle, "");
  const auto find = [&]<class F>(F& function, const char* name) {
    function = reinterpret_cast<F>(os::find(handle, name));
    need(reinterpret_cast<const void*>(function), name);
  };
  Library l;
  find(l.open_v2, "sqlite3_open_v2");
  find(l.close_v2, "sqlite3_close_v2");
  find(l.busy_timeout, "sqlite3_busy_timeout");
  find(l.get_autocommit, "sqlite3_get_autocommit");
  find(l.errmsg, "sqlite3_errmsg");
  find(l.errstr, "sqlite3_errstr");
  find(l.prepare_v2, "sqlite3_prepare_v2");
  find(l.bind_int64, "sqlite3_bind_int64");
  find(l.bind_text, "sqlite3_bind_text");
  find(l.bind_blob64, "sqlite3_bind_blob64");
  find(l.step, "sqlite3_step");
  find(l.reset, "sqlite3_reset");
  find(l.finalize, "sqlite3_finalize");
  find(l.column_type, "sqlite3_column_type");
  find(l.column_int64, "sqlite3_column_int64");
  find(l.column_text, "sqlite3_column_text");
  find(l.column_blob, "sqlite3_column_blob");
  find(l.column_bytes, "sqlite3_column_bytes");
  return l;
}

const Library& sqlite() {
  static const Library library = load_library();  // tried again if it throws
  return library;
}

[[noreturn]] void refuse(int code, const char* message) {
  code &= 0xff;  // the primary one
  if (code == kNoMemory) throw std::bad_alloc();
  throw SqliteError(message, code);
}

}  // namespace

bool SqliteError::of_system() const {  // most numbers up to this one; NOTADB and others follow
  return code <= kSchema && code != kInternal && code != kCorrupt && code != kNotFound;
}

bool SqliteError::locked() const { return code == kBusy || code == kLocked; }

Database::Database(const std::string& file, bool create, int milliseconds) {
  const int flags = kReadWriteFlag | (create ? kCreateFlag : 0);
  const int code = sqlite().open_v2(file.c_str(), &handle_, flags, nullptr);
  if (code != kOk) {
    const std::string message = handle_ ? sqlite().errmsg(handle_) : sqlite().errstr(code);
    sqlite().close_v2(handle_);  // it may be null
    refuse(code, message.c_str());
  }
  wait_for_others(milliseconds);
}

Database::~Database() { sqlite().close_v2(handle_); }

void Database::execute(std::string_view sql) { Statement(*this, sql).run(); }

int64_t Database::integer(std::string_view sql) {
  Statement statement(*this, sql);
  return statement.next() ? statement.integer(0) : 0;
}

std::string Database::text(std::string_view sql) {
  Statement statement(*this, sql);
  return std::string(statement.next() ? statement.text(0) : "");
}

void Database::rollback() noexcept {
  if (sqlite().get_autocommit(handle_)) return;
  try {
    execute("ROLLBACK");
  } catch (...) {  // it is rolled back from its journal by whoever opens it next
  }
}

void Database::wait_for_others(int milliseconds) { sqlite().busy_timeout(handle_, milliseconds); }

void Database::check(int code) const {
  if (code != kOk) refuse(code, sqlite().errmsg(handle_));
}

Statement::Statement(const Database& database, std::string_view sql) : database_(database) {
  database.check(
      sqlite().prepare_v2(database.handle_, sql.data(), int(sql.size()), &handle_, nullptr));
}

Statement::~Statement() { sqlite().finalize(handle_); }

Statement& Statement::bind(int64_t value) {
  database_.check(sqlite().bind_int64(handle_, ++bound_, value));
  return *this;
}

Statement& Statement::bind(std::string_view text) {
  const char* data = text.empty() ? "" : text.data();  // null is NULL
  database_.check(sqlite().bind_text(handle_, ++bound_, data, int(text.size()), nullptr));
  return *this;
}

Statement& Statement::bind(std::span<const std::byte> blob) {
  const void* data = blob.empty() ? "" : static_cast<const void*>(blob.data());
  database_.check(sqlite().bind_blob64(handle_, ++bound_, data, blob.size(), nullptr));
  return *this;
}

bool Statement::next() {
  const int code = sqlite().step(handle_);
  if (code == kRow) return true;
  bound_ = 0;
  if (code != kDone) refuse(code, sqlite().errmsg(database_.handle_));
  sqlite().reset(handle_);
  return false;
}

Statement::Type Statement::type(int column) const {
  return Type(sqlite().column_type(handle_, column));
}

int64_t Statement::integer(int column) const {
  return type(column) == Type::integer ? sqlite().column_int64(handle_, column) : 0;
}

std::string_view Statement::text(int column) const {
  if (type(column) != Type::text) return {};
  const auto* text = sqlite().column_text(handle_, column);
  if (!text) throw std::bad_alloc();
  return {reinterpret_cast<const char*>(text), size_t(sqlite().column_bytes(handle_, column))};
}

std::span<const std::byte> Statement::blob(int column) const {
  if (type(column) != Type::blob) return {};
  const auto* blob = static_cast<const std::byte*>(sqlite().column_blob(handle_, column));
  return {blob, size_t(sqlite().column_bytes(handle_, column))};  // empty: null, 0
}

}  // namespace rtfm
