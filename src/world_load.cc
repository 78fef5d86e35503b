// SPDX-License-Identifier: Apache-2.0
// Loading: a file may hold anything, also under a digest and checksums that are right.
#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>

#include "src/json.h"
#include "src/world_file.h"
#include "src/world_format.h"

namespace rtfm {
namespace {

using namespace world_format;
namespace fs = std::filesystem;

template <class T>
const T& at(const Values& values, const std::string& key) {
  const auto found = values.find(key);
  const T* value = found == values.end() ? nullptr : std::get_if<T>(&found->second);
  if (!value) throw Damage("no '" + key + "', or one of another type");
  return *value;
}

int64_t size_at(const Values& values, const std::string& key) {
  const int64_t size = at<int64_t>(values, key);
  if (size < 1 || size > 1 << 15) throw Damage("'" + key + "' is no size of an image");
  return size;
}

std::vector<int64_t> ids_at(const Values& values, const std::string& key) {
  const Bytes& bytes = at<Bytes>(values, key);
  std::vector<int64_t> ids(bytes.size() / sizeof(int64_t));
  if (bytes.size() % sizeof(int64_t)) throw Damage("'" + key + "' is no list of ids");
  if (!ids.empty()) std::memcpy(ids.data(), bytes.data(), bytes.size());
  return ids;
}

template <size_t N>
std::array<double, N> doubles(Blob bytes, const char* what) {
  std::array<double, N> values;
  if (bytes.size() != sizeof values) throw Damage(std::string("the wrong size of ") + what);
  std::memcpy(values.data(), bytes.data(), sizeof values);
  return values;
}

Pose pose_of(Blob bytes) { return Pose::from_matrix(doubles<16>(bytes, "a pose").data()); }

std::optional<Pose> pose_at(const Values& values, const std::string& key) {
  const Bytes& bytes = at<Bytes>(values, key);
  return bytes.empty() ? std::optional<Pose>() : pose_of(bytes);
}

// Calls take(blobs) for the rows of a table in the order of ids, and throws WorldError unless these
// are all of them and each is whole. blobs: how many a row has, between id and checksum.
void read_rows(const Database& db, const std::string& path, const std::string& table, int blobs,
               const std::vector<int64_t>& ids,
               const std::function<void(std::span<const Blob>)>& take) {
  std::set<int64_t> damaged(ids.begin(), ids.end()), unknown;
  if (damaged.size() != ids.size()) throw Damage("an id twice");
  Statement all(db, "SELECT id FROM " + table);
  while (all.next())
    if (!damaged.contains(all.integer(0))) unknown.insert(all.integer(0));
  Statement row(db, "SELECT * FROM " + table + " WHERE id = ?");
  for (const int64_t id : ids) {
    row.bind(id);
    while (row.next()) {
      std::vector<Blob> values;
      for (int i = 1; i <= blobs; ++i)
        if (row.type(i) == Statement::Type::blob) values.push_back(row.blob(i));
      const bool whole =
          int(values.size()) == blobs && row.integer(1 + blobs) == checksum(id, values);
      if (!whole) continue;
      damaged.erase(id);
      take(values);
    }
  }
  if (damaged.empty() && unknown.empty()) return;
  const size_t whole = ids.size() - damaged.size(), bad = damaged.size() + unknown.size();
  std::string named;
  int count = 0;
  for (const auto* some : {&damaged, &unknown})
    for (const int64_t id : *some)
      if (++count <= 8) named += (count > 1 ? ", " : "") + std::to_string(id);
  fail<WorldError>(path, ": expected ", ids.size(), " whole ", table, ", got ", bad,
                   " damaged or missing: ", named, bad > 8 ? ", ..." : "", "; the other ", whole,
                   " are whole");
}

// A seed has all 64 bits; of numbers above 2^63, the reader of JSON makes a double. json: sound.
uint64_t seed_of(std::string_view json) {
  constexpr std::string_view kKey = "\"seed\"";
  const size_t key = json.find(kKey);
  const size_t at = key == json.npos ? key : json.find_first_not_of(" \t\r\n:", key + kKey.size());
  uint64_t seed = 0;
  const char* last = json.data() + json.size();
  const auto [end, error] = std::from_chars(json.data() + std::min(at, json.size()), last, seed);
  if (error != std::errc() || end == last || std::string_view(" \t\r\n,}").find(*end) == json.npos)
    throw Damage("no seed, or one that is no integer from 0 to 2**64 - 1");
  return seed;
}

SessionOptions options_of(const std::string& text, bool by_actions) {
  const Json json = parse_json(text);
  const auto integer = [&](const char* key, int64_t most) {
    const Json* member = json.find(key);
    const int64_t* value = member ? member->as<int64_t>() : nullptr;
    if (!value || *value < 0 || *value > most)
      throw Damage(std::string("no option '") + key + "', or one of another type");
    return *value;
  };
  const auto small = [&](const char* key) {
    return int(integer(key, std::numeric_limits<int>::max()));
  };
  SessionOptions o;
  o.seed = seed_of(text);
  o.steps = small("steps");
  if (json.find("memory_budget"))
    o.memory_budget = integer("memory_budget", std::numeric_limits<int64_t>::max());
  if (by_actions) return o;
  o.context = small("context"), o.sinks = small("sinks"), o.recent = small("recent");
  const Json* member = json.find("commit_below");
  if (const auto* share = member ? member->as<double>() : nullptr)
    o.commit_below = *share;
  else
    o.commit_below = double(integer("commit_below", 2));
  return o;
}

LoadedWorld read(const Database& db, const std::string& path, const fs::path& file,
                 int64_t version) {
  Values values = read_values(db);
  const auto sum = values.extract("digest");
  check<WorldError>(
      !sum.empty() && sum.mapped() == Value(digest(values)), path,
      ": expected a whole file, got one whose description is damaged, or that an early build "
      "before 0.1.0 saved");
  const bool by_actions = version > 1;
  LoadedWorld loaded;
  loaded.saved = {at<std::string>(values, "model"),
                  at<std::string>(values, "world"),
                  {at<std::string>(values, "revision")}};
  loaded.height = size_at(values, "height"), loaded.width = size_at(values, "width");
  loaded.options = options_of(at<std::string>(values, "options"), by_actions);
  World& world = loaded.world;
  world.next_id = at<int64_t>(values, "next_id");
  if (world.next_id < 0 || world.next_id > int64_t{1} << 62) throw Damage("'next_id' is no id");
  world.last_pose = pose_at(values, "last_pose");
  if (values.contains("origin")) world.origin = pose_at(values, "origin");
  world.ids = ids_at(values, "ids"), world.by_use = ids_at(values, "by_use");
  world.with_page = ids_at(values, "with_page");

  const uint64_t image_bytes = uint64_t(loaded.height * loaded.width) * 3;
  std::error_code none;
  const uint64_t file_bytes = fs::file_size(file, none);  // bounds what a forged size may reserve
  if (!none) loaded.images.reserve(std::min(world.ids.size() * image_bytes, file_bytes));
  read_rows(db, path, "frames", 3, world.ids, [&](std::span<const Blob> row) {
    const auto [fx, fy] = doubles<2>(row[1], "intrinsics");
    world.views.push_back({pose_of(row[0]), {fx, fy}});
    check_intrinsics(world.views.back().intrinsics);
    if (row[2].size() != image_bytes) throw Damage("the wrong size of an image");
    const auto* pixels = reinterpret_cast<const uint8_t*>(row[2].data());
    loaded.images.insert(loaded.images.end(), pixels, pixels + image_bytes);
  });
  if (!by_actions) return loaded;
  world.page_dtype = at<std::string>(values, "page_dtype");
  read_rows(db, path, "pages", 1, world.with_page, [&](std::span<const Blob> row) {
    loaded.pages.emplace_back(row[0].begin(), row[0].end());
  });
  world.pages.assign(loaded.pages.begin(), loaded.pages.end());
  return loaded;
}

}  // namespace

LoadedWorld load_world(const std::string& path) {
  const fs::path file = file_of(path);
  std::error_code none;
  check<WorldError>(fs::is_regular_file(file, none), path,
                    ": expected a world file, got no file there");
  try {
    Database db(os::to_name(file), false, kPatience);
    db.execute("BEGIN");
    const int64_t version = check_format(db, path);
    const std::string problem = printable(db.text("PRAGMA quick_check(1)"));
    check<WorldError>(problem == "ok", path,
                      ": expected a whole file, got a damaged one: ", problem);
    try {
      return read(db, path, file, version);
    } catch (const ArgumentError& error) {  // a pose or focal lengths that are none
      throw Damage(error.what());
    } catch (const ModelError& error) {  // JSON
      throw Damage(error.what());
    }
  } catch (...) {
    rethrow(path, file);
  }
}

void check_model(const LoadedWorld& loaded, const std::string& path, const std::string& model_path,
                 const std::string& model_sha256) {
  check<WorldError>(loaded.saved.model == model_sha256, path,
                    ": expected the model that the world was made with, ",
                    loaded.saved.model.substr(0, 16), "…, got ", model_path, ", ",
                    model_sha256.substr(0, 16), "…");
}

void restore_world(Session& session, const LoadedWorld& loaded) {
  const Manifest& m = session.model().manifest();
  check<WorldError>(loaded.height == m.image_height && loaded.width == m.image_width,
                    "restore: expected images of ", m.image_height, "x", m.image_width, ", got ",
                    loaded.height, "x", loaded.width);
  session.restore(loaded.world, loaded.images.data());
}

}  // namespace rtfm
