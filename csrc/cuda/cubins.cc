// SPDX-License-Identifier: Apache-2.0
// RTFM_CUBINS is the path of the folder csrc/cuda/kernels/cubins.
#include "csrc/cuda/cubins.h"

#include <iterator>
#include <string_view>

#define CUBIN(name, kind, kernel, sm, rows, cols, depth, warps, shared) \
  __asm__(                                                              \
      ".section .rodata\n"                                              \
      ".balign 64\n"                                                    \
      ".hidden rtfm_" #name                                             \
      "\n"                                                              \
      ".globl rtfm_" #name                                              \
      "\n"                                                              \
      "rtfm_" #name                                                     \
      ":\n"                                                             \
      ".incbin \"" RTFM_CUBINS "/" #name                                \
      ".cubin\"\n"                                                      \
      ".previous\n");                                                   \
  extern "C" __attribute__((visibility("hidden"))) const unsigned char rtfm_##name[];
#include "csrc/cuda/kernels/cubins/cubins.inc"
#undef CUBIN

namespace rtfm::cuda {

#define CUBIN(name, kind, kernel, sm, rows, cols, depth, warps, shared) \
  {rtfm_##name, #kernel, Kind::kind, sm,     rows,                      \
   cols,        depth,   warps,      shared, std::string_view(#kernel).ends_with("_tma")},
const Cubin kCubins[] = {
#include "csrc/cuda/kernels/cubins/cubins.inc"
};
#undef CUBIN
const int kCubinCount = int(std::size(kCubins));

int cubin_architecture(int major, int minor) {
  if (major == 8) return minor == 9 ? 89 : 80;  // 8.6 and 8.7 run code for 8.0
  for (const int sm : {90, 100, 120})           // their code is for one capability alone
    if (major * 10 + minor == sm) return sm;
  return 0;
}

}  // namespace rtfm::cuda
