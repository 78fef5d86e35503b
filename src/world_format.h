// SPDX-License-Identifier: Apache-2.0
// The format of world files, which docs/world_file.md describes: what both sides of it share.
// python/rtfm_rt/world.py is the same in Python; each reads what the other writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "src/sqlite.h"

namespace rtfm::world_format {

constexpr int64_t kApplication = 0x7274666D;  // "rtfm", in the header of the file
constexpr int64_t kVersion = 2;   // the newest; 1: without pages, of models that go by poses
constexpr int kPatience = 5'000;  // milliseconds to wait for another process that has the file

using Blob = std::span<const std::byte>;
using Bytes = std::vector<std::byte>;
using Value = std::variant<int64_t, std::string, Bytes>;
using Values = std::map<std::string, Value>;  // the table `world`

struct Damage : std::runtime_error {  // values of a wrong type or length; becomes a WorldError
  using std::runtime_error::runtime_error;
};

// The statements that make the tables of a version, as the file holds them.
std::span<const char* const> tables(int64_t version);

// The version of the file, which is one of ours with the tables of that version. Throws WorldError.
int64_t check_format(Database& db, const std::string& path);

// The table `world`. Throws Damage for values of other types.
Values read_values(const Database& db);

std::string digest(const Values& values);  // of all of them: leave out the digest itself

int64_t checksum(int64_t id, std::span<const Blob> blobs);  // of a row

// The file that a path leads to, links followed. Throws WorldError for what is no name of a file.
std::filesystem::path file_of(const std::string& path);

// What SQLite says, which may quote bytes of a damaged file: those that are no ASCII become '?'.
std::string printable(std::string text);

// In a catch block: what SQLite, the system or a damaged file threw, as a WorldError that names the
// file. Everything else goes on as it is.
[[noreturn]] void rethrow(const std::string& path, const std::filesystem::path& file);

}  // namespace rtfm::world_format
