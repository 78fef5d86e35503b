// SPDX-License-Identifier: Apache-2.0
// The few calls of SQLite that world files take. Its library is opened when the first database is,
// so that nothing else needs it: neither to build nor to run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rtfm {

struct SqliteError : std::runtime_error {  // its message is SQLite's own
  SqliteError(const char* message, int code) : std::runtime_error(message), code(code) {}

  // The file is locked, cannot be opened, read or written, or the disk is full. Otherwise it is
  // damaged, or no database.
  bool of_system() const;
  bool locked() const;

  int code;  // primary
};

// One connection, of one thread at a time. What fails is a SqliteError; a missing library is a
// WorldError. Dropped with a transaction under way, it leaves the file as it was.
class Database {
 public:
  // file: absolute, and no link: then it is always a name, never a URI or one of SQLite's own.
  // create: make it if it is not there. milliseconds: to wait for others that have it locked.
  Database(const std::string& file, bool create, int milliseconds);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  void execute(std::string_view sql);     // one statement, whose rows are not wanted
  int64_t integer(std::string_view sql);  // the first value of its first row
  std::string text(std::string_view sql);
  void rollback() noexcept;  // if there is a transaction
  void wait_for_others(int milliseconds);

 private:
  friend class Statement;
  void check(int code) const;

  void* handle_ = nullptr;
};

// Prepared once, run with any values; its database outlives it.
class Statement {
 public:
  enum class Type { integer = 1, real = 2, text = 3, blob = 4, null = 5 };  // as SQLite has them

  Statement(const Database& database, std::string_view sql);
  ~Statement();
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  // For the next parameter; texts and blobs must last until the last row.
  Statement& bind(int64_t value);
  Statement& bind(std::string_view text);
  Statement& bind(std::span<const std::byte> blob);

  bool next();  // on to the next row; after the last one, false, and it can be bound and run again
  void run() {
    while (next()) {
    }
  }

  // Of the row, until the next one: texts and blobs of another type are empty, integers 0.
  Type type(int column) const;
  int64_t integer(int column) const;
  std::string_view text(int column) const;
  std::span<const std::byte> blob(int column) const;

 private:
  const Database& database_;
  void* handle_ = nullptr;
  int bound_ = 0;
};

}  // namespace rtfm
