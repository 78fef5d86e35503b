// SPDX-License-Identifier: Apache-2.0
// The same pictures on a GPU: one thread a pixel, written where a torch tensor lives.
#include <cuda_runtime.h>

#include <vector>

#include "tools/rooms/scene.h"

namespace {

constexpr int kSide = 8;  // a block draws kSide × kSide pixels of one frame

// scenes [rooms], cameras [rooms, views] -> rgb [rooms, views, height, width, 3]
__global__ void render_kernel(const rooms::Scene* scenes, const rooms::Camera* cameras, int views,
                              int height, int width, int samples, uint8_t* rgb) {
  const int x = blockIdx.x * kSide + threadIdx.x, y = blockIdx.y * kSide + threadIdx.y;
  const int64_t frame = blockIdx.z;
  if (x >= width || y >= height) return;
  uint8_t* out = rgb + 3 * ((frame * height + y) * width + x);
  rooms::render_pixel(scenes[frame / views], cameras[frame], x, y, height, width, samples, out);
}

cudaError_t render(const std::vector<rooms::Scene>& scenes,
                   const std::vector<rooms::Camera>& cameras, int height, int width, int samples,
                   cudaStream_t stream, uint8_t* rgb) {
  const size_t scene_bytes = scenes.size() * sizeof(rooms::Scene);
  const size_t camera_bytes = cameras.size() * sizeof(rooms::Camera);
  char* memory = nullptr;
  cudaError_t error = cudaMallocAsync(&memory, scene_bytes + camera_bytes, stream);
  if (error != cudaSuccess) return error;
  // From pageable memory: the call returns when the source may be freed.
  cudaMemcpyAsync(memory, scenes.data(), scene_bytes, cudaMemcpyHostToDevice, stream);
  cudaMemcpyAsync(memory + scene_bytes, cameras.data(), camera_bytes, cudaMemcpyHostToDevice,
                  stream);
  const dim3 grid((width + kSide - 1) / kSide, (height + kSide - 1) / kSide, cameras.size());
  render_kernel<<<grid, dim3(kSide, kSide), 0, stream>>>(
      reinterpret_cast<const rooms::Scene*>(memory),
      reinterpret_cast<const rooms::Camera*>(memory + scene_bytes),
      static_cast<int>(cameras.size() / scenes.size()), height, width, samples, rgb);
  error = cudaGetLastError();
  const cudaError_t freed = cudaFreeAsync(memory, stream);
  return error != cudaSuccess ? error : freed;
}

}  // namespace

// seeds [count], poses [count, views, 12] on the host -> rgb [count, views, height, width, 3] on
// the device. Enqueues on `stream` and returns the CUDA error, 0 for none.
extern "C" int rooms_render_cuda(const uint64_t* seeds, int count, int views, const float* poses,
                                 float fx, float fy, int height, int width, int samples,
                                 void* stream, uint8_t* rgb) {
  std::vector<rooms::Scene> scenes;
  std::vector<rooms::Camera> cameras;
  for (int i = 0; i < count; i++) scenes.push_back(rooms::build_scene(seeds[i]));
  for (int i = 0; i < count * views; i++)
    cameras.push_back(rooms::make_camera(poses + 12 * i, fx, fy));
  return render(scenes, cameras, height, width, samples, static_cast<cudaStream_t>(stream), rgb);
}
