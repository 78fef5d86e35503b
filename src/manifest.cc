// SPDX-License-Identifier: Apache-2.0
#include "src/manifest.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "csrc/backend.h"
#include "src/check.h"

namespace rtfm {
namespace {

constexpr int64_t kFormat = 1;
constexpr int kMaxSteps = 64;
constexpr size_t kGolden = 48;  // mean colours of 4x4 cells of a frame; python/rtfm_rt/golden.py

float coefficient(const Json& value, double min, double max, const std::string& label) {
  const int64_t* whole = value.as<int64_t>();
  const double* real = value.as<double>();
  const double x = whole ? static_cast<double>(*whole) : real ? *real : 0;
  if ((!whole && !real) || !(x >= min && x <= max))
    fail<ModelError>(label, "expected a number in ", min, "..", max);
  return static_cast<float>(x);
}

std::vector<SamplerRow> parse_rows(const Section& samplers, const std::string& key, int steps,
                                   double max_time) {
  const std::string label = samplers.label(key);
  const Json::Array& rows = samplers.array(key);
  if (static_cast<int>(rows.size()) != steps)
    fail<ModelError>(label, "expected ", steps, " rows, got ", rows.size());
  std::vector<SamplerRow> table;
  for (const Json& row : rows) {
    const Json::Array* v = row.as<Json::Array>();
    if (!v || v->size() != 4) fail<ModelError>(label, "expected rows [t, a, b, c]");
    constexpr double kMax = 1e6;
    table.push_back(
        {coefficient((*v)[0], 0, max_time, label), coefficient((*v)[1], -kMax, kMax, label),
         coefficient((*v)[2], -kMax, kMax, label), coefficient((*v)[3], -kMax, kMax, label)});
  }
  return table;
}

std::map<int, std::vector<SamplerRow>> parse_samplers(const Section& root, double max_time) {
  const Section samplers = root.section("samplers");
  std::map<int, std::vector<SamplerRow>> tables;
  for (const auto& [key, value] : *root.at("samplers").as<Json::Object>()) {
    int steps = 0;
    std::from_chars(key.data(), key.data() + key.size(), steps);
    if (std::to_string(steps) != key || steps < 1 || steps > kMaxSteps)
      fail<ModelError>("manifest samplers: expected keys \"1\" to \"", kMaxSteps, "\", got ",
                       in_quotes(key));
    tables.emplace(steps, parse_rows(samplers, key, steps, max_time));
  }
  return tables;
}

void parse_retrieval(const Section& root, Manifest& m) {
  const Section section = root.section("retrieval");
  section.has_exactly({"context", "sinks", "recent", "near", "far", "commit_below"});
  auto& r = m.retrieval;
  r.context = section.size("context", 1, 32);
  r.sinks = section.size("sinks", 0, 32);
  r.recent = section.size("recent", 0, 32);
  check<ModelError>(r.sinks + r.recent <= r.context,
                    "manifest retrieval: expected sinks + recent <= context = ", r.context,
                    ", got ", r.sinks, " + ", r.recent);
  r.near = section.number("near", 1e-6, 1e6);
  r.far = section.number("far", 1e-6, 1e6);
  check<ModelError>(r.near < r.far, "manifest retrieval: expected near < far, got ", r.near,
                    " and ", r.far);
  r.commit_below = section.number("commit_below", 0, 2);
}

std::vector<Action> parse_actions(const Section& root) {
  std::vector<Action> actions;
  const Json::Array& list = root.array("actions");
  check<ModelError>(!list.empty() && list.size() <= size_t(kMaxActions),
                    "manifest actions: expected 1..", kMaxActions, ", got ", list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const Section a(list[i], "actions." + std::to_string(i) + ".");
    a.has_exactly({"name", "min", "max", "move", "turn"});
    constexpr double kMost = 1e6;
    const auto move = a.numbers("move", 3, -kMost, kMost), turn = a.numbers("turn", 2, -360, 360);
    actions.push_back({.name = a.text("name"),
                       .min = a.number("min", -kMost, kMost),
                       .max = a.number("max", -kMost, kMost),
                       .move = {move[0], move[1], move[2]},
                       .turn = {turn[0], turn[1]}});
    const Action& action = actions.back();
    check<ModelError>(action.min < action.max, a.label("max"),
                      "expected more than min = ", action.min, ", got ", action.max);
    for (size_t j = 0; j < i; ++j)
      check<ModelError>(actions[j].name != action.name, a.label("name"),
                        "expected one of its own, got ", in_quotes(action.name), " again");
  }
  return actions;
}

void parse_source(const Section& root, Manifest& m) {
  const Section source = root.section("source");
  source.has_exactly({"file", "sha256"});
  m.source_file = source.text("file");
  m.source_sha256 = source.text("sha256");
  check<ModelError>(m.source_sha256.size() == 64 &&
                        m.source_sha256.find_first_not_of("0123456789abcdef") == std::string::npos,
                    source.label("sha256"), "expected 64 lower-case hexadecimal digits, got ",
                    in_quotes(m.source_sha256));
}

}  // namespace

std::string check_version(const Section& root) {
  const int64_t format = root.integer("format", 1, INT64_MAX);
  if (format != kFormat)
    fail<ModelError>("manifest format: expected ", kFormat, ", got ", format,
                     "; the file is newer: upgrade rtfm_rt");
  for (const Json& feature : root.array("requires")) {
    const std::string* name = feature.as<std::string>();
    fail<ModelError>("manifest requires: expected no features, got ",
                     name ? in_quotes(*name) : feature.type(), "; upgrade rtfm_rt");
  }
  return root.text("family");
}

Manifest parse_manifest(const Section& root, std::vector<std::string_view> own, double max_time) {
  const bool by_actions = std::find(own.begin(), own.end(), "actions") != own.end();
  own.insert(own.end(), {"format", "family", "name", "licence", "source", "requires", "image",
                         "camera", "steps", "samplers", "retrieval"});
  if (root.has("golden")) own.push_back("golden");
  root.has_exactly(own);
  if (root.has("golden")) root.numbers("golden", kGolden, 0, 255);
  Manifest m{};
  m.family = root.text("family");
  m.name = root.text("name");
  m.licence = root.text("licence");
  parse_source(root, m);

  const Section image = root.section("image");
  image.has_exactly({"height", "width"});
  m.image_height = image.size("height", 1, 8192);
  m.image_width = image.size("width", 1, 8192);
  const Section camera = root.section("camera");
  camera.has_exactly({"fx", "fy", "world_scale"});
  m.fx = camera.number("fx", 1e-3, 1e3);
  m.fy = camera.number("fy", 1e-3, 1e3);
  m.world_scale = camera.number("world_scale", 1e-6, 1e6);

  m.samplers = parse_samplers(root, max_time);
  m.steps = root.size("steps", 1, kMaxSteps);
  check<ModelError>(m.samplers.count(m.steps) > 0,
                    "manifest steps: expected a key of samplers, got ", m.steps);
  parse_retrieval(root, m);
  if (by_actions) m.actions = parse_actions(root);
  return m;
}

}  // namespace rtfm
