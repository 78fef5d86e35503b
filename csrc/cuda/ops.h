// SPDX-License-Identifier: Apache-2.0
// The ops that CUDA C++ does itself, one launch each.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/cuda/api.h"

namespace rtfm::cuda {

cudaError_t norm_modulate(const NormModulateArgs& a, cudaStream_t stream);
cudaError_t qkv_split(const QkvSplitArgs& a, cudaStream_t stream);
cudaError_t gather(const GatherArgs& a, cudaStream_t stream);
cudaError_t sampler(const SamplerArgs& a, cudaStream_t stream);
cudaError_t patchify(const PatchifyArgs& a, cudaStream_t stream);
cudaError_t unpatchify(const UnpatchifyArgs& a, cudaStream_t stream);

cudaError_t epilogue(const EpilogueArgs& a, cudaStream_t stream);
cudaError_t unfold(const UnfoldArgs& a, cudaStream_t stream);
cudaError_t state_load(const StateCopyArgs& a, cudaStream_t stream);
cudaError_t state_store(const StateCopyArgs& a, cudaStream_t stream);
cudaError_t ray_patches(const RayPatchesArgs& a, cudaStream_t stream);
cudaError_t time_attention(const TimeAttentionArgs& a, cudaStream_t stream);
cudaError_t condition(const ConditionArgs& a, cudaStream_t stream);
cudaError_t save_frame(const SaveFrameArgs& a, cudaStream_t stream);
cudaError_t load_frame(const LoadFrameArgs& a, cudaStream_t stream);
cudaError_t group(const GroupArgs& a, cudaStream_t stream);
cudaError_t ungroup(const UngroupArgs& a, cudaStream_t stream);

}  // namespace rtfm::cuda
