// SPDX-License-Identifier: Apache-2.0
#include "src/manifest.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <utility>

#include "src/check.h"
#include "src/json.h"

namespace rtfm {
namespace {

constexpr int64_t kFormat = 1;
constexpr int kMaxSteps = 64, kMaxTokens = 65536, kTimeFeatures = 256;

// One JSON object with a known set of keys; `path` names it in messages ("camera.").
class Section {
 public:
  Section(const Json& json, std::string path) : json_(json), path_(std::move(path)) {
    if (!json.as<Json::Object>())
      fail<ModelError>("manifest ", where(), "expected an object, got ", json.type());
  }

  // Refuses missing and unknown keys.
  void has_exactly(std::initializer_list<std::string_view> keys) const {
    for (const auto& key : keys) at(key);
    for (const auto& [key, value] : *json_.as<Json::Object>())
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        fail<ModelError>("manifest ", where(), "unknown key ", quoted(key),
                         "; the file may need a newer rtfm_rt");
  }

  const Json& at(std::string_view key) const {
    const Json* value = json_.find(key);
    if (!value) fail<ModelError>("manifest ", where(), "key ", quoted(key), " is missing");
    return *value;
  }

  Section section(std::string_view key) const { return {at(key), path_ + std::string(key) + "."}; }

  int64_t integer(std::string_view key, int64_t min, int64_t max) const {
    const int64_t* value = at(key).as<int64_t>();
    if (!value) fail<ModelError>(label(key), "expected an integer, got ", at(key).type());
    if (*value < min || *value > max)
      fail<ModelError>(label(key), "expected ", min, "..", max, ", got ", *value);
    return *value;
  }

  int size(std::string_view key, int min, int max) const {
    return static_cast<int>(integer(key, min, max));
  }

  double number(std::string_view key, double min, double max) const {
    const Json& value = at(key);
    const int64_t* whole = value.as<int64_t>();
    const double* real = value.as<double>();
    if (!whole && !real) fail<ModelError>(label(key), "expected a number, got ", value.type());
    const double x = whole ? static_cast<double>(*whole) : *real;
    if (!(x >= min && x <= max))
      fail<ModelError>(label(key), "expected ", min, "..", max, ", got ", x);
    return x;
  }

  // 1..256 bytes, no control characters (it ends up in terminals).
  std::string text(std::string_view key) const {
    const std::string* value = at(key).as<std::string>();
    if (!value) fail<ModelError>(label(key), "expected a string, got ", at(key).type());
    const bool plain = std::all_of(value->begin(), value->end(), [](char c) {
      return static_cast<unsigned char>(c) >= 0x20 && c != 0x7F;
    });
    if (value->empty() || value->size() > 256 || !plain)
      fail<ModelError>(label(key), "expected 1 to 256 bytes of plain text, got ", quoted(*value));
    return *value;
  }

  void is(std::string_view key, std::string_view expected) const {
    const std::string value = text(key);
    if (value != expected)
      fail<ModelError>(label(key), "expected ", quoted(expected), ", got ", quoted(value),
                       "; the file may need a newer rtfm_rt");
  }

  const Json::Array& array(std::string_view key) const {
    const Json::Array* value = at(key).as<Json::Array>();
    if (!value) fail<ModelError>(label(key), "expected an array, got ", at(key).type());
    return *value;
  }

  std::string label(std::string_view key) const {
    return "manifest " + path_ + std::string(key) + ": ";
  }

 private:
  std::string where() const {
    return path_.empty() ? "" : path_.substr(0, path_.size() - 1) + ": ";
  }

  const Json& json_;
  std::string path_;
};

// Says "newer" before anything else can look wrong because of it.
void check_version(const Section& root) {
  const int64_t format = root.integer("format", 1, INT64_MAX);
  if (format != kFormat)
    fail<ModelError>("manifest format: expected ", kFormat, ", got ", format,
                     "; the file is newer: upgrade rtfm_rt");
  for (const Json& feature : root.array("requires")) {
    const std::string* name = feature.as<std::string>();
    fail<ModelError>("manifest requires: expected no features, got ",
                     name ? quoted(*name) : feature.type(), "; upgrade rtfm_rt");
  }
  root.is("family", "frame_dit");
}

float coefficient(const Json& value, double min, double max, const std::string& label) {
  const int64_t* whole = value.as<int64_t>();
  const double* real = value.as<double>();
  const double x = whole ? static_cast<double>(*whole) : real ? *real : 0;
  if ((!whole && !real) || !(x >= min && x <= max))
    fail<ModelError>(label, "expected a number in ", min, "..", max);
  return static_cast<float>(x);
}

std::vector<SamplerRow> parse_rows(const Section& samplers, const std::string& key, int steps) {
  const std::string label = samplers.label(key);
  const Json::Array& rows = samplers.array(key);
  if (static_cast<int>(rows.size()) != steps)
    fail<ModelError>(label, "expected ", steps, " rows, got ", rows.size());
  std::vector<SamplerRow> table;
  for (const Json& row : rows) {
    const Json::Array* v = row.as<Json::Array>();
    if (!v || v->size() != 4) fail<ModelError>(label, "expected rows [t, a, b, c]");
    constexpr double kMax = 1e6;
    table.push_back({coefficient((*v)[0], 0, 1, label), coefficient((*v)[1], -kMax, kMax, label),
                     coefficient((*v)[2], -kMax, kMax, label),
                     coefficient((*v)[3], -kMax, kMax, label)});
  }
  return table;
}

std::map<int, std::vector<SamplerRow>> parse_samplers(const Section& root) {
  const Section samplers = root.section("samplers");
  std::map<int, std::vector<SamplerRow>> tables;
  for (const auto& [key, value] : *root.at("samplers").as<Json::Object>()) {
    int steps = 0;
    std::from_chars(key.data(), key.data() + key.size(), steps);
    if (std::to_string(steps) != key || steps < 1 || steps > kMaxSteps)
      fail<ModelError>("manifest samplers: expected keys \"1\" to \"", kMaxSteps, "\", got ",
                       quoted(key));
    tables.emplace(steps, parse_rows(samplers, key, steps));
  }
  return tables;
}

void parse_network(const Section& root, Manifest& m) {
  const Section image = root.section("image"), codec = root.section("codec");
  image.has_exactly({"height", "width"});
  codec.has_exactly({"kind", "patch"});
  codec.is("kind", "patch");
  m.patch = codec.size("patch", 1, 64);
  m.image_height = image.size("height", m.patch, 8192);
  m.image_width = image.size("width", m.patch, 8192);
  check<ModelError>(m.image_height % m.patch == 0 && m.image_width % m.patch == 0,
                    "manifest image: expected sides that are multiples of ", m.patch, ", got ",
                    m.image_height, "x", m.image_width);
  check<ModelError>(m.tokens() <= kMaxTokens, "manifest image: expected at most ", kMaxTokens,
                    " tokens, got ", m.tokens());
  m.width = root.size("width", 8, 8192);
  m.layers = root.size("layers", 1, 128);
  m.heads = root.size("heads", 1, 1024);
  m.head_dim = root.size("head_dim", 8, 256);
  m.mlp = root.size("mlp", 1, 65536);
  check<ModelError>(m.head_dim % 8 == 0, "manifest head_dim: expected a multiple of 8, got ",
                    m.head_dim);
  check<ModelError>(m.heads * m.head_dim == m.width,
                    "manifest width: expected heads * head_dim = ", m.heads * m.head_dim, ", got ",
                    m.width);
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

}  // namespace

Manifest parse_manifest(std::string_view json) {
  const Json document = parse_json(json);
  const Section root(document, "");
  check_version(root);
  root.has_exactly({"format", "family", "name", "licence", "source", "requires", "image", "codec",
                    "width", "layers", "heads", "head_dim", "mlp", "camera", "steps", "samplers",
                    "retrieval"});
  Manifest m{};
  m.name = root.text("name");
  m.licence = root.text("licence");

  const Section source = root.section("source");
  source.has_exactly({"file", "sha256"});
  m.source_file = source.text("file");
  m.source_sha256 = source.text("sha256");
  check<ModelError>(m.source_sha256.size() == 64 &&
                        m.source_sha256.find_first_not_of("0123456789abcdef") == std::string::npos,
                    source.label("sha256"), "expected 64 lower-case hexadecimal digits, got ",
                    quoted(m.source_sha256));

  parse_network(root, m);
  const Section camera = root.section("camera");
  camera.has_exactly({"fx", "fy", "world_scale"});
  m.fx = camera.number("fx", 1e-3, 1e3);
  m.fy = camera.number("fy", 1e-3, 1e3);
  m.world_scale = camera.number("world_scale", 1e-6, 1e6);

  m.samplers = parse_samplers(root);
  m.steps = root.size("steps", 1, kMaxSteps);
  check<ModelError>(m.samplers.count(m.steps) > 0,
                    "manifest steps: expected a key of samplers, got ", m.steps);
  parse_retrieval(root, m);
  return m;
}

std::map<std::string, std::vector<int64_t>> expected_tensors(const Manifest& m) {
  const int64_t width = m.width, mlp = m.mlp, head_dim = m.head_dim, token = m.token_size();
  std::map<std::string, std::vector<int64_t>> shapes{
      {"in.weight", {width, token}},
      {"in.bias", {width}},
      {"time.0.weight", {width, kTimeFeatures}},
      {"time.0.bias", {width}},
      {"time.2.weight", {6 * width, width}},
      {"time.2.bias", {6 * width}},
      {"final.modulation", {2, width}},
      {"out.weight", {token, width}},
      {"out.bias", {token}},
  };
  for (int layer = 0; layer < m.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    shapes[block + "modulation"] = {6, width};
    shapes[block + "qkv.weight"] = {3 * width, width};
    shapes[block + "q_gain"] = {head_dim};
    shapes[block + "k_gain"] = {head_dim};
    shapes[block + "out.weight"] = {width, width};
    shapes[block + "up.weight"] = {mlp, width};
    shapes[block + "up.bias"] = {mlp};
    shapes[block + "down.weight"] = {width, mlp};
    shapes[block + "down.bias"] = {width};
  }
  return shapes;
}

void check_tensors(const Manifest& manifest, const Safetensors& file) {
  const auto expected = expected_tensors(manifest);
  for (const auto& [name, shape] : expected) {
    const auto found = file.tensors().find(name);
    if (found == file.tensors().end())
      fail<ModelError>("tensor ", quoted(name), " is missing: expected shape ", to_string(shape));
    if (found->second.shape != shape)
      fail<ModelError>("tensor ", quoted(name), ": expected shape ", to_string(shape), ", got ",
                       to_string(found->second.shape));
  }
  for (const auto& [name, view] : file.tensors())
    if (!expected.contains(name)) fail<ModelError>("unknown tensor ", quoted(name));
}

ModelFile load_model_file(const std::string& path) {
  Safetensors weights(path);
  const auto& metadata = weights.metadata();
  const auto entry = metadata.find("rtfm");
  check<ModelError>(entry != metadata.end() && metadata.size() == 1, path,
                    ": expected exactly one metadata entry, 'rtfm'; is it a training checkpoint? "
                    "make a model file of it with rtfm-rt convert");
  const std::string json = entry->second;
  Manifest manifest;
  try {
    manifest = parse_manifest(json);
    check_tensors(manifest, weights);
  } catch (const ModelError& error) {
    fail<ModelError>(path, ": ", error.what());
  }
  weights.read_data();
  const std::string bad = weights.first_non_finite();
  if (!bad.empty())
    fail<ModelError>(path, ": tensor ", quoted(bad),
                     ": expected finite numbers, got a NaN or an infinity");
  int64_t parameters = 0;
  for (const auto& [name, view] : weights.tensors()) parameters += view.elements();
  return {std::move(manifest), json, std::move(weights), parameters};
}

}  // namespace rtfm
