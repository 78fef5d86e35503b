// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "csrc/cpu/kernels.h"

namespace rtfm::cpu {

// The tiers that were built and that this CPU and kernel allow, best first; last those in
// int8, which are taken when asked for only. Asks the kernel for AMX.
std::vector<const Kernels*> available_tiers();

int available_cpus();  // of this thread's affinity mask

}  // namespace rtfm::cpu
