// SPDX-License-Identifier: Apache-2.0
// The C functions that scenes.py calls: rooms, poses and pictures on the host.
#include <atomic>
#include <thread>
#include <vector>

#include "tools/rooms/scene.h"

namespace rooms {
namespace {

// Calls job(i) for every i < count from `threads` threads.
template <typename Job>
void parallel_for(int count, int threads, const Job& job) {
  std::atomic<int> next{0};
  const auto work = [&] {
    for (int i; (i = next++) < count;) job(i);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; i++) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

}  // namespace
}  // namespace rooms

extern "C" {

// seeds [rooms] -> poses [rooms, views, 12]
void rooms_sample_poses(const uint64_t* seeds, int count, int views, float* poses) {
  for (int i = 0; i < count; i++) rooms::sample_poses(seeds[i], views, poses + 12ll * views * i);
}

// 1 where a walker may stand, else 0.
int rooms_is_free(uint64_t seed, float x, float z) {
  return rooms::is_free(rooms::build_scene(seed), x, z);
}

// pose [12] of a walker's camera
void rooms_pose(float x, float z, float yaw, float pitch, float* pose) {
  rooms::write_pose({x, z, yaw, pitch}, pose);
}

// seeds [count], poses [count, views, 12] -> rgb [count, views, height, width, 3]
void rooms_render(const uint64_t* seeds, int count, int views, const float* poses, float fx,
                  float fy, int height, int width, int samples, int threads, uint8_t* rgb) {
  rooms::parallel_for(count, threads, [&](int i) {
    const rooms::Scene scene = rooms::build_scene(seeds[i]);
    for (int view = 0; view < views; view++) {
      const int64_t frame = int64_t{i} * views + view;
      const rooms::Camera camera = rooms::make_camera(poses + 12 * frame, fx, fy);
      uint8_t* out = rgb + 3 * frame * height * width;
      for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++, out += 3)
          rooms::render_pixel(scene, camera, x, y, height, width, samples, out);
    }
  });
}

}  // extern "C"
