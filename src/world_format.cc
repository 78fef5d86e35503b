// SPDX-License-Identifier: Apache-2.0
#include "src/world_format.h"

#include <filesystem>
#include <set>
#include <string_view>

#include "csrc/os/os.h"
#include "src/check.h"
#include "src/digest.h"
#include "src/json.h"

namespace rtfm::world_format {
namespace {

namespace fs = std::filesystem;

// To the byte: a file is refused unless its tables were made by these.
constexpr const char* kTables[] = {
    "CREATE TABLE world (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    ("CREATE TABLE frames (id INTEGER PRIMARY KEY, pose BLOB NOT NULL, intrinsics BLOB NOT NULL,\n"
     "                     image BLOB NOT NULL, checksum INTEGER NOT NULL)"),
    "CREATE TABLE pages (id INTEGER PRIMARY KEY, page BLOB NOT NULL, checksum INTEGER NOT NULL)",
};

template <class T>
Blob bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

Value value_of(const Statement& row, int column) {
  switch (row.type(column)) {
    case Statement::Type::integer:
      return row.integer(column);
    case Statement::Type::text:
      return std::string(row.text(column));
    case Statement::Type::blob: {
      const Blob blob = row.blob(column);
      return Bytes(blob.begin(), blob.end());
    }
    default:
      throw Damage("a value that is no integer, text or blob");
  }
}

}  // namespace

std::span<const char* const> tables(int64_t version) {
  return std::span(kTables).first(version > 1 ? 3 : 2);
}

int64_t check_format(Database& db, const std::string& path) {
  const int64_t application = db.integer("PRAGMA application_id");
  const int64_t version = db.integer("PRAGMA user_version");
  // sqlite_schema, by the name that SQLite before 3.33 knows
  if (application != kApplication)
    fail<WorldError>(path, ": expected a world file, got ",
                     db.integer("SELECT count(*) FROM sqlite_master")
                         ? "a database of something else"
                         : "an empty file, as a killed save leaves");
  check<WorldError>(version <= kVersion, path, ": expected a world file of version ", kVersion,
                    " or older, got version ", version, "; upgrade rtfm_rt");
  check<WorldError>(version >= 1, path, ": expected a version from 1, got ", version,
                    "; the file is damaged");
  std::set<std::string, std::less<>> got, expected;
  for (const char* statement : tables(version)) expected.insert(statement);
  Statement schema(db, "SELECT sql FROM sqlite_master");
  while (schema.next()) got.emplace(schema.text(0));
  check<WorldError>(got == expected,  // views and triggers of a foreign file are never run
                    path, ": expected the tables of a world file, got others");
  return version;
}

Values read_values(const Database& db) {
  Values values;
  Statement rows(db, "SELECT key, value FROM world");
  while (rows.next()) {
    if (rows.type(0) != Statement::Type::text) throw Damage("a key that is no text");
    values.emplace(rows.text(0), value_of(rows, 1));
  }
  return values;
}

std::string digest(const Values& values) {
  Sha256 sum;
  for (const auto& [key, value] : values) {  // in the order of their bytes
    const auto add = [&](const char* kind, const auto& raw) {
      const uint64_t size = raw.size();
      sum.update(key);
      sum.update(std::string_view("\0", 1));
      sum.update(kind);
      sum.update(bytes_of(size));
      sum.update(raw);
    };
    if (const auto* integer = std::get_if<int64_t>(&value))
      add("i", std::to_string(*integer));
    else if (const auto* text = std::get_if<std::string>(&value))
      add("t", *text);
    else
      add("b", std::get<Bytes>(value));
  }
  return sum.finish();
}

int64_t checksum(int64_t id, std::span<const Blob> blobs) {
  uint32_t sum = crc32(0, bytes_of(id));
  for (const Blob blob : blobs) sum = crc32(sum, blob);
  return sum;
}

fs::path file_of(const std::string& path) {
  check<WorldError>(!path.empty() && path.back() != '/' && path.find('\0') == path.npos,
                    "path: expected the name of a file, got ", in_quotes(path));
  try {
    fs::path file = fs::absolute(os::to_path(path));
    for (int links = 0; links < 40 && fs::is_symlink(fs::symlink_status(file)); ++links)
      file = file.parent_path() / fs::read_symlink(file);  // which may be absolute, or lead nowhere
    return fs::weakly_canonical(file.parent_path()) / file.filename();
  } catch (const fs::filesystem_error& error) {  // no permission, or no working directory any more
    fail<WorldError>(path, ": expected the name of a file, got: ", error.code().message());
  }
}

std::string printable(std::string text) {
  for (char& c : text)
    if ((c < ' ' || c > '~') && c != '\n') c = '?';
  return text;
}

void rethrow(const std::string& path, const fs::path& file) {
  try {
    throw;
  } catch (const SqliteError& error) {
    const std::string says = printable(error.what());
    std::error_code none;
    if (!error.of_system())
      fail<WorldError>(path, ": expected a world file, got a damaged one: ", says);
    const fs::path folder = file.parent_path();
    if (!fs::is_directory(folder, none))
      fail<WorldError>(path, ": expected a folder for it at ", os::to_name(folder),
                       ", got none; make it first");
    fail<WorldError>(path, ": expected to read and write it, got: ", says, "; ",
                     fs::is_regular_file(file, none)
                         ? "the world in the file is the one of the last save that returned"
                         : "nothing was saved there");
  } catch (const Damage& error) {
    fail<WorldError>(path, ": expected a world file, got a damaged one: ", error.what());
  }
}

}  // namespace rtfm::world_format
