// SPDX-License-Identifier: Apache-2.0
#include "src/families.h"

#include <utility>

#include "src/check.h"
#include "src/models/causal_dit.h"
#include "src/models/dual_stream.h"
#include "src/models/frame_dit.h"
#include "src/models/st_dit.h"

namespace rtfm {
namespace {

struct Family {
  const char* name;
  // Reads the whole manifest: what all families share, and the sizes of its own networks.
  std::unique_ptr<Topology> (*open)(const Section& root, Manifest& manifest);
};

constexpr Family kFamilies[] = {
    {"frame_dit", open_frame_dit},
    {"causal_dit", open_causal_dit},
    {"dual_stream", open_dual_stream},
    {"st_dit", open_st_dit},
};

std::unique_ptr<Topology> open_topology(const Section& root, Manifest& manifest) {
  const std::string name = check_version(root);
  std::string known;
  for (const Family& family : kFamilies) {
    if (name == family.name) return family.open(root, manifest);
    known += (known.empty() ? "" : ", ") + in_quotes(family.name);
  }
  fail<ModelError>(root.label("family"), "expected ", known, ", got ", in_quotes(name),
                   "; the file may need a newer rtfm_rt");
}

// Throws ModelError naming the first tensor that is missing, unknown or of another shape.
void check_tensors(const Shapes& expected, const Safetensors& file) {
  for (const auto& [name, shape] : expected) {
    const auto found = file.tensors().find(name);
    if (found == file.tensors().end())
      fail<ModelError>("tensor ", in_quotes(name), " is missing: expected shape ",
                       to_string(shape));
    if (found->second.shape != shape)
      fail<ModelError>("tensor ", in_quotes(name), ": expected shape ", to_string(shape), ", got ",
                       to_string(found->second.shape));
  }
  for (const auto& [name, view] : file.tensors())
    if (!expected.contains(name)) fail<ModelError>("unknown tensor ", in_quotes(name));
}

}  // namespace

ModelFile load_model_file(const std::string& path) {
  Safetensors weights(path);
  const auto& metadata = weights.metadata();
  const auto entry = metadata.find("rtfm");
  check<ModelError>(entry != metadata.end() && metadata.size() == 1, path,
                    ": expected exactly one metadata entry, 'rtfm'; is it a training checkpoint? "
                    "make a model file of it with rtfm-rt convert");
  const std::string json = entry->second;
  Manifest manifest;
  std::unique_ptr<Topology> topology;
  try {
    const Json document = parse_json(json);
    topology = open_topology(Section(document, ""), manifest);
    check_tensors(topology->tensors(), weights);
  } catch (const ModelError& error) {
    fail<ModelError>(path, ": ", error.what());
  }
  int64_t parameters = 0;
  for (const auto& [name, view] : weights.tensors()) parameters += view.elements();
  return {std::move(manifest), json, std::move(topology), std::move(weights), parameters};
}

}  // namespace rtfm
