// SPDX-License-Identifier: Apache-2.0
// World files, as docs/world_file.md describes them: a session's world on the disk, the same files
// as Python's. They take SQLite's library, which is opened when it is wanted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "src/session.h"

namespace rtfm {

// What a session knows of its files: empty before its first save, and of a branch, which is a world
// of its own. A file with one of these revisions is as this session loaded or saved it, and may be
// written over.
struct SavedWorld {
  std::string model;  // SHA-256 of the model file
  std::string world;  // a random name
  std::set<std::string> revisions;
};

// Writes the world; only frames and pages that the file lacks are written in full. path: a new
// file, or one that this world was saved to or loaded from. When it returns everything is on the
// disk; until then the file holds the world of the last save, whatever happens. model_sha256: of
// the file that the session's model was read from. budget: the memory_budget that the session was
// given, if it was. Throws WorldError, and `saved` is as before, unless it was the very end that
// failed: then the file may hold either world, and `saved` knows both.
void save_world(Session& session, const std::string& path, const std::string& model_sha256,
                std::optional<int64_t> budget, SavedWorld& saved);

// A world as a file holds it. It moves and is not copied: the world refers to the pages.
struct LoadedWorld {
  World world;
  int64_t height = 0, width = 0;              // of the images
  std::vector<uint8_t> images;                // [ids, height, width, 3]
  std::vector<std::vector<std::byte>> pages;  // of models that go by actions
  SavedWorld saved;                           // for the session that goes on
  SessionOptions options;                     // seed, and those that the file holds

  LoadedWorld() = default;
  LoadedWorld(LoadedWorld&&) = default;
  LoadedWorld& operator=(LoadedWorld&&) = default;
};

// All of it, checked. Throws WorldError naming the file and what is whole in it.
LoadedWorld load_world(const std::string& path);

// Throws WorldError unless the model is the one that the world was made with.
void check_model(const LoadedWorld& loaded, const std::string& path, const std::string& model_path,
                 const std::string& model_sha256);

// Session::restore, where the sizes of the images are the model's. Throws WorldError.
void restore_world(Session& session, const LoadedWorld& loaded);

}  // namespace rtfm
