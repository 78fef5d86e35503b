// SPDX-License-Identifier: Apache-2.0
// Saving; world_load.cc reads what this writes.
#include "src/world_file.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

#include "src/world_format.h"

namespace rtfm {
namespace {

using namespace world_format;
namespace fs = std::filesystem;

std::string random_name() {  // 16 bytes, hexadecimal
  std::random_device random;
  std::string name;
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = random();
    for (int shift = 28; shift >= 0; shift -= 4)
      name.push_back("0123456789abcdef"[word >> shift & 15]);
  }
  return name;
}

void begin(Database& db) {
  db.execute("PRAGMA page_size = 16384");  // of a new file: rows are large
  // a rollback journal, not WAL: between saves a world is one file, readable from anywhere
  db.execute("PRAGMA journal_mode = DELETE");
  db.execute("PRAGMA synchronous = EXTRA");
  db.execute("BEGIN IMMEDIATE");
}

// Removes the file that a first save made for nothing, unless another one is writing to it. One
// that waits to is refused by SQLite, which does not write to what has lost its name.
void remove_empty(Database& db, const fs::path& file) noexcept {
  try {
    db.wait_for_others(0);
    db.execute("BEGIN IMMEDIATE");
  } catch (const SqliteError& error) {
    if (error.locked()) return;  // else nobody can write to that disk
  } catch (...) {
    return;
  }
  std::error_code none;
  if (fs::file_size(file, none) == 0) fs::remove(file, none);
}

// The revision in the file, which this session may write over; of a new file, which gets its
// tables, none.
std::optional<std::string> check_same_world(Database& db, const std::string& path,
                                            const SavedWorld& last, int64_t version) {
  if (!db.integer("SELECT count(*) FROM sqlite_master")) {
    for (const char* statement : tables(version)) db.execute(statement);
    db.execute("PRAGMA application_id = " + std::to_string(kApplication));
    db.execute("PRAGMA user_version = " + std::to_string(version));
    return {};
  }
  check_format(db, path);
  const Values values = read_values(db);
  const auto name = [&](const char* key) {
    const auto at = values.find(key);
    const auto* text = at == values.end() ? nullptr : std::get_if<std::string>(&at->second);
    return text ? *text : std::string();
  };
  check<WorldError>(!last.world.empty() && name("world") == last.world, path,
                    ": expected a new file or one that this world was saved to, got another world; "
                    "choose another path, or remove the file");
  check<WorldError>(last.revisions.contains(name("revision")), path,
                    ": expected the world as this session saved or loaded it, got what another "
                    "session has saved since, or an old copy; choose another path");
  return name("revision");
}

Bytes matrix_of(const Pose& pose) {  // 16 doubles
  const std::array<double, 16> matrix = pose.matrix();
  const auto bytes = std::as_bytes(std::span(matrix));
  return {bytes.begin(), bytes.end()};
}

// The ids of a table's rows, once those that the world has no more are deleted.
std::set<int64_t> keep_rows(Database& db, const std::string& table, std::set<int64_t> wanted) {
  std::set<int64_t> kept, gone;
  Statement rows(db, "SELECT id FROM " + table);
  while (rows.next()) {
    const int64_t id = rows.integer(0);
    (wanted.contains(id) ? kept : gone).insert(id);
  }
  Statement remove(db, "DELETE FROM " + table + " WHERE id = ?");
  for (const int64_t id : gone) remove.bind(id).run();
  return kept;
}

// Those that are new to the file or were moved since.
void write_frames(Database& db, Session& session, const World& world) {
  const auto there = keep_rows(db, "frames", {world.ids.begin(), world.ids.end()});
  Statement seen(db, "SELECT pose, intrinsics FROM frames WHERE id = ?");
  Statement write(db, "INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?, ?)");
  const size_t image_bytes = size_t(session.model().manifest().image_bytes());
  Bytes image(image_bytes);
  for (size_t i = 0; i < world.ids.size(); ++i) {
    const int64_t id = world.ids[i];
    const Bytes pose = matrix_of(world.views[i].pose);
    const Blob intrinsics = std::as_bytes(std::span(&world.views[i].intrinsics, 1));
    bool same = false;
    if (there.contains(id)) {
      seen.bind(id);
      while (seen.next())
        same =
            std::ranges::equal(seen.blob(0), pose) && std::ranges::equal(seen.blob(1), intrinsics);
    }
    if (same) continue;
    session.with_memory([&](const Memory& m) {
      std::memcpy(image.data(), m.image(m.frames().slot_of(id)), image_bytes);
    });
    const Blob blobs[] = {pose, intrinsics, image};
    write.bind(id).bind(pose).bind(intrinsics).bind(image).bind(checksum(id, blobs)).run();
  }
}

// Those of the window that the file lacks: what is written of a page never changes.
void write_pages(Database& db, Session& session, const std::vector<int64_t>& ids) {
  const std::set<int64_t> wanted(ids.begin(), ids.end());
  const auto there = keep_rows(db, "pages", wanted);
  Statement write(db, "INSERT INTO pages VALUES (?, ?, ?)");
  for (const int64_t id : wanted) {
    if (there.contains(id)) continue;
    const Bytes page = session.saved_page(id);
    write.bind(id).bind(page).bind(checksum(id, std::array{Blob(page)})).run();
  }
}

std::string text_of(double value) {  // the shortest that reads back as the same, never an integer
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value);
  std::string number(text, end);
  if (number.find_first_of(".e") == number.npos) number += ".0";
  return number;
}

// A budget of nobody's choice is up to who loads the world.
std::string options_of(const Session& session, std::optional<int64_t> budget) {
  const SessionOptions& o = session.options();
  std::string json = "{\"seed\": " + std::to_string(o.seed);
  const auto add = [&](const std::string& key, const std::string& number) {
    json += ", \"" + key + "\": " + number;
  };
  if (!session.model().manifest().by_actions()) {  // otherwise the window is the model's own
    add("context", std::to_string(*o.context));
    add("sinks", std::to_string(*o.sinks));
    add("recent", std::to_string(*o.recent));
    add("commit_below", text_of(*o.commit_below));
  }
  add("steps", std::to_string(*o.steps));
  if (budget) add("memory_budget", std::to_string(*budget));
  return json + "}";
}

void write(Database& db, Session& session, const World& world, const SavedWorld& saved,
           const std::string& revision, std::optional<int64_t> budget) {
  write_frames(db, session, world);
  if (!world.page_dtype.empty()) write_pages(db, session, world.with_page);
  const Manifest& m = session.model().manifest();
  const auto blob = [](const std::vector<int64_t>& ids) {
    const auto bytes = std::as_bytes(std::span(ids));
    return Bytes(bytes.begin(), bytes.end());
  };
  Values values{{"model", saved.model},
                {"model_name", m.name},
                {"world", saved.world},
                {"revision", revision},
                {"height", int64_t(m.image_height)},
                {"width", int64_t(m.image_width)},
                {"next_id", world.next_id},
                {"last_pose", world.last_pose ? matrix_of(*world.last_pose) : Bytes()},
                {"ids", blob(world.ids)},
                {"by_use", blob(world.by_use)},
                {"with_page", blob(world.with_page)},
                {"options", options_of(session, budget)}};
  if (world.origin) values["origin"] = matrix_of(*world.origin);
  if (!world.page_dtype.empty()) values["page_dtype"] = world.page_dtype;
  values["digest"] = digest(values);
  db.execute("DELETE FROM world");
  Statement insert(db, "INSERT INTO world VALUES (?, ?)");
  for (const auto& [key, value] : values) {
    insert.bind(key);
    std::visit([&](const auto& v) { insert.bind(v); }, value);
    insert.run();
  }
}

}  // namespace

void save_world(Session& session, const std::string& path, const std::string& model_sha256,
                std::optional<int64_t> budget, SavedWorld& saved) {
  const fs::path file = file_of(path);
  std::error_code none;
  const bool fresh = !fs::exists(file, none);
  check<WorldError>(fresh || fs::is_regular_file(file, none), path,
                    ": expected a file or a new name, got a folder, a device or a pipe; choose "
                    "another name");
  const World world = session.world();  // refuses before there is a file
  const std::string revision = random_name();
  SavedWorld next = saved;
  if (next.world.empty()) next.model = model_sha256, next.world = random_name();
  next.revisions.insert(revision);
  std::optional<std::string> replaced;
  try {
    Database db(os::to_name(file), true, kPatience);
    try {
      begin(db);
      replaced = check_same_world(db, path, saved, world.page_dtype.empty() ? 1 : kVersion);
      write(db, session, world, next, revision, budget);
      std::swap(saved, next);  // a commit that fails may yet have lasted
      db.execute("COMMIT");
    } catch (...) {
      db.rollback();
      if (fresh) remove_empty(db, file);
      throw;
    }
  } catch (...) {
    rethrow(path, file);
  }
  if (replaced) saved.revisions.erase(*replaced);
}

}  // namespace rtfm
