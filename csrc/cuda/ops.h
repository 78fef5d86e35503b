// SPDX-License-Identifier: Apache-2.0
// The ops that CUDA C++ does itself, one launch each.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/backend.h"

namespace rtfm::cuda {

cudaError_t norm_modulate(const NormModulateArgs& a, cudaStream_t stream);
cudaError_t qkv_split(const QkvSplitArgs& a, cudaStream_t stream);
cudaError_t gather(const GatherArgs& a, cudaStream_t stream);
cudaError_t sampler(const SamplerArgs& a, cudaStream_t stream);
cudaError_t patchify(const PatchifyArgs& a, cudaStream_t stream);
cudaError_t unpatchify(const UnpatchifyArgs& a, cudaStream_t stream);

}  // namespace rtfm::cuda
