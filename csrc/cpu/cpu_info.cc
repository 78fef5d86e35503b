// SPDX-License-Identifier: Apache-2.0
#include "csrc/cpu/cpu_info.h"

#include <thread>

#if defined(__linux__)
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace rtfm::cpu {
namespace {

#if defined(__x86_64__)
bool has_avx_vnni() {  // unknown to __builtin_cpu_supports of clang 14
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

bool has_avx512_bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

#if defined(RTFM_HAVE_AMX)
bool amx_allowed() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if (!(d >> 22 & 1) || !(d >> 24 & 1)) return false;  // AMX-BF16, AMX-TILE
  if (!has_avx512_bf16()) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_amx_int8() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 25 & 1);
}
#endif

}  // namespace

std::vector<const Kernels*> available_tiers() {
  std::vector<const Kernels*> tiers;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
#if defined(RTFM_HAVE_AMX)
  const bool amx = avx512 && amx_allowed();
  if (amx) tiers.push_back(&amx::kernels);
#endif
  const bool bf16 = avx512 && has_avx512_bf16();
  const bool fast_bf16 = bf16 && __builtin_cpu_is("amd");
  if (fast_bf16) tiers.push_back(&avx512_bf16::kernels);
  if (avx512) tiers.push_back(&avx512::kernels);
  if (avx2) tiers.push_back(&avx2::kernels);
#endif
  tiers.push_back(&portable::kernels);
#if defined(RTFM_HAVE_AMX)
  if (amx && has_amx_int8()) tiers.push_back(&amx_int8::kernels);
#endif
#if defined(__x86_64__)
  if (bf16 && !fast_bf16) tiers.push_back(&avx512_bf16::kernels);
  if (avx512 && __builtin_cpu_supports("avx512vnni")) tiers.push_back(&vnni::kernels);
  if (avx2 && has_avx_vnni()) tiers.push_back(&avx_vnni::kernels);
#elif defined(__aarch64__) && defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) tiers.push_back(&sdot::kernels);
#elif defined(__aarch64__) && defined(__APPLE__)
  tiers.push_back(&sdot::kernels);  // all of Apple's have it
#endif
  return tiers;
}

int available_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? int(count) : 1;
}

}  // namespace rtfm::cpu
