// SPDX-License-Identifier: Apache-2.0
// A walk without Python: walk MODEL THREADS PRECISION, which reads a picture and poses and writes
// frames.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "src/session.h"

int main(int, char** argv) {
  const auto model = std::make_shared<rtfm::Model>(argv[1], "cpu", argv[3]);
  const rtfm::Manifest& manifest = model->manifest();
  rtfm::SessionOptions options;
  options.seed = 7, options.threads = std::atoi(argv[2]);
  rtfm::Session session(model, options);
  std::vector<uint8_t> picture(size_t(manifest.image_bytes()));
  const std::vector<float> still(manifest.actions.size());
  if (std::fread(picture.data(), picture.size(), 1, stdin) != 1) return 1;
  rtfm::View view{rtfm::Pose{{1, 0, 0, 0, 1, 0, 0, 0, 1}, {}}, session.default_intrinsics()};
  manifest.by_actions() ? session.observe_next(picture.data(), still, {})
                        : session.observe(picture.data(), view);
  for (double pose[16]; std::fread(pose, sizeof pose, 1, stdin) == 1;) {
    view.pose = rtfm::Pose::from_matrix(pose);
    const rtfm::Frame frame = manifest.by_actions() ? session.act(still) : session.step(view);
    std::fwrite(frame.pixels->data(), frame.pixels->size(), 1, stdout);
  }
}
