// SPDX-License-Identifier: Apache-2.0
// The bodies as kernels.
#include "csrc/cuda/ops.h"

#include "csrc/cuda/convolution_body.h"
#include "csrc/cuda/latent_body.h"
#include "csrc/cuda/norm_body.h"
#include "csrc/cuda/pointwise_body.h"
#include "csrc/cuda/rays_body.h"
#include "csrc/cuda/time_body.h"

namespace rtfm::cuda {
namespace {

constexpr int kThreads = 256;  // of a block, where nothing else decides
constexpr int kWarp = 32;

// A whole block as a Group.
struct Block {
  float* memory;  // [32]
  __device__ int thread() const { return int(threadIdx.x); }
  __device__ int threads() const { return int(blockDim.x); }
  __device__ float shuffle_xor(float v, int m) const { return __shfl_xor_sync(~0u, v, m); }
  __device__ float* shared() const { return memory; }
  __device__ void sync() const { __syncthreads(); }
};

// One warp as a Group.
struct Warp {
  __device__ int thread() const { return int(threadIdx.x) % kWarp; }
  __device__ static constexpr int threads() { return kWarp; }
  __device__ float shuffle_xor(float v, int m) const { return __shfl_xor_sync(~0u, v, m); }
  __device__ float* shared() const { return nullptr; }
  __device__ void sync() const { __syncwarp(); }
};

__device__ int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

unsigned blocks(int64_t items, int64_t per_block) {
  return unsigned((items + per_block - 1) / per_block);
}

template <int kQuads>
__global__ void __launch_bounds__(kRowThreads)
    norm_modulate_kernel(NormModulateArgs a, bool aligned) {
  __shared__ float memory[32];
  Block block{memory};
  norm_modulate_row<kQuads>(block, a, blockIdx.x, aligned);
}

__global__ void __launch_bounds__(kThreads) qkv_split_kernel(QkvSplitArgs a) {
  Warp warp;
  const int64_t unit = thread_index() / kWarp;
  if (unit < a.tokens * a.heads) split_head(warp, a, unit / a.heads, unit % a.heads);
}

__global__ void __launch_bounds__(kThreads) gather_kernel(GatherArgs a) {
  const int64_t octet = thread_index();
  if (octet < gather_octets(a)) gather_octet(a, blockIdx.z, blockIdx.y, octet);
}

__global__ void __launch_bounds__(kThreads) sampler_kernel(SamplerArgs a) {
  sampler_group(a, thread_index());
}

__global__ void __launch_bounds__(kThreads) patchify_kernel(PatchifyArgs a) {
  const int64_t at = thread_index();
  if (at < a.height * a.width * 3) patchify_value(a, at);
}

__global__ void __launch_bounds__(kThreads) unpatchify_kernel(UnpatchifyArgs a) {
  const int64_t at = thread_index();
  if (at < a.height * a.width * 3) unpatchify_value(a, at);
}

__global__ void __launch_bounds__(kThreads) time_attention_kernel(TimeAttentionArgs a) {
  Warp warp;
  const int64_t unit = thread_index() / kWarp;
  if (unit < a.tokens * a.heads)
    attend_in_time<kTimePairs>(warp, a, unit / a.heads, unit % a.heads);
}

// A thread for each item of an op that has no other shape.
template <class Args>
__global__ void __launch_bounds__(kThreads) items_kernel(Args a) {
  const int64_t i = thread_index();
  if (i < items(a)) item(a, i);
}

template <class Args>
cudaError_t launch_items(const Args& a, cudaStream_t stream) {
  items_kernel<<<blocks(items(a), kThreads), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace

cudaError_t norm_modulate(const NormModulateArgs& a, cudaStream_t stream) {
  return with_row_shape(a.cols, [&](auto quads, int threads) {
    if constexpr (quads == 0)
      return cudaErrorInvalidValue;
    else
      norm_modulate_kernel<quads>
          <<<unsigned(a.rows), unsigned(threads), 0, stream>>>(a, rows_aligned(a));
    return cudaGetLastError();
  });
}

cudaError_t qkv_split(const QkvSplitArgs& a, cudaStream_t stream) {
  const unsigned grid = blocks(a.tokens * a.heads, kThreads / kWarp);
  qkv_split_kernel<<<grid, kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t gather(const GatherArgs& a, cudaStream_t stream) {
  if (a.pages == 0) return cudaSuccess;
  const dim3 grid(blocks(gather_octets(a), kThreads), unsigned(a.pages), unsigned(a.layers));
  gather_kernel<<<grid, kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t sampler(const SamplerArgs& a, cudaStream_t stream) {
  const int64_t groups = (a.rows * a.cols + 3) / 4;
  sampler_kernel<<<blocks(groups, kThreads), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t patchify(const PatchifyArgs& a, cudaStream_t stream) {
  patchify_kernel<<<blocks(a.height * a.width * 3, kThreads), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t unpatchify(const UnpatchifyArgs& a, cudaStream_t stream) {
  unpatchify_kernel<<<blocks(a.height * a.width * 3, kThreads), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t time_attention(const TimeAttentionArgs& a, cudaStream_t stream) {
  const unsigned grid = blocks(a.tokens * a.heads, kThreads / kWarp);
  time_attention_kernel<<<grid, kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

cudaError_t epilogue(const EpilogueArgs& a, cudaStream_t s) { return launch_items(a, s); }
cudaError_t unfold(const UnfoldArgs& a, cudaStream_t s) { return launch_items(a, s); }
cudaError_t state_load(const StateCopyArgs& a, cudaStream_t s) {
  return launch_items(StateLoad{a}, s);
}
cudaError_t state_store(const StateCopyArgs& a, cudaStream_t s) {
  return launch_items(StateStore{a}, s);
}
cudaError_t ray_patches(const RayPatchesArgs& a, cudaStream_t s) { return launch_items(a, s); }
cudaError_t condition(const ConditionArgs& a, cudaStream_t s) { return launch_items(a, s); }
cudaError_t save_frame(const SaveFrameArgs& a, cudaStream_t s) { return launch_items(a, s); }
cudaError_t load_frame(const LoadFrameArgs& a, cudaStream_t s) { return launch_items(a, s); }
cudaError_t group(const GroupArgs& a, cudaStream_t s) { return launch_items(a, s); }
cudaError_t ungroup(const UngroupArgs& a, cudaStream_t s) { return launch_items(a, s); }

}  // namespace rtfm::cuda
