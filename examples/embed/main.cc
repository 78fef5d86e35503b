// SPDX-License-Identifier: Apache-2.0
// A robot's loop: 50 times a second the frame that its camera would see, from one picture of a
// room. Walks 30 steps ahead and back, and writes what it saw at the turn and on its return.
//
//   embed MODEL PICTURE.ppm [OUT]
#include <rtfm_rt.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

namespace {

using rtfm_rt::Frame;
using rtfm_rt::Pose;

// [height, width, 3] of a binary PPM with that size.
std::vector<std::uint8_t> read_ppm(const std::string& path, int height, int width) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int columns = 0, rows = 0, most = 0;
  file >> magic >> columns >> rows >> most;
  file.get();
  std::vector<std::uint8_t> image(std::size_t(3) * std::size_t(height) * std::size_t(width));
  if (magic != "P6" || columns != width || rows != height || most != 255 ||
      !file.read(reinterpret_cast<char*>(image.data()), std::streamsize(image.size())))
    throw std::runtime_error(path + ": expected a PPM (P6) of " + std::to_string(width) + "x" +
                             std::to_string(height) + " pixels");
  return image;
}

void write_ppm(const std::string& path, const Frame& frame) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << frame.width << " " << frame.height << "\n255\n";
  const auto pixels = frame.pixels();
  file.write(reinterpret_cast<const char*>(pixels.data()), std::streamsize(pixels.size()));
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

void walk(const char* path, const char* picture, const std::string& out) {
  using namespace std::chrono_literals;
  constexpr int kAhead = 30;
  const rtfm_rt::Model model(path);
  rtfm_rt::Session session(model, {.seed = 7});
  session.observe(read_ppm(picture, model.height(), model.width()), Pose{});
  std::printf("%s on %s, %d threads\n", model.name().c_str(), session.device().c_str(),
              session.threads());

  auto tick = std::chrono::steady_clock::now();
  for (int i = 1; i <= 2 * kAhead; ++i) {
    const int steps = i <= kAhead ? i : 2 * kAhead - i;
    const Frame frame = session.step(Pose{.position = {0, 0, 0.02 * steps}}, {.deadline = 0.02});
    if (i == kAhead) write_ppm(out + "turn.ppm", frame);
    if (i == 2 * kAhead) write_ppm(out + "return.ppm", frame);
    if (i % 10 == 0)
      std::printf("frame %2d: %4.1f ms, %d steps, support %.2f%s\n", i, frame.latency * 1e3,
                  frame.steps, frame.support, frame.late ? ", late" : "");
    std::this_thread::sleep_until(tick += 20ms);
  }
  const rtfm_rt::Stats stats = session.stats();
  std::printf("p50 %.1f ms, p99 %.1f ms, %d of %d late; %d frames remembered\n", stats.p50 * 1e3,
              stats.p99 * 1e3, int(stats.late), int(stats.frames), int(session.memory().size()));
}

}  // namespace

int main(int count, char** arguments) try {
  if (count < 3) {
    std::fprintf(stderr, "embed: expected MODEL PICTURE.ppm [OUT]\n");
    return 2;
  }
  walk(arguments[1], arguments[2], count > 3 ? arguments[3] : "");
} catch (const std::exception& error) {
  std::fprintf(stderr, "embed: %s\n", error.what());
  return 1;
}
