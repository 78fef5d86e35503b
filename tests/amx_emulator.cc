// SPDX-License-Identifier: Apache-2.0
#include "tests/amx_emulator.h"

#include <algorithm>
#include <string>

#include "csrc/cpu/cpu_info.h"

#if defined(RTFM_HAVE_AMX) && defined(__linux__)
#include <cpuid.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <mutex>
#include <utility>

namespace {

// ---- The tile unit of a thread.

struct Tiles {
  struct Config {  // as ldtilecfg reads it; palette 0: no tiles
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config;
  alignas(64) uint8_t tile[8][16][64];
};
static_assert(sizeof(Tiles::Config) == 64);
thread_local Tiles tiles;

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Integers __attribute__((vector_size(64)));

// c += a · b over pairs of bf16. The hardware adds up even k and odd k apart: each product is
// exact, each sum rounded to f32.
[[gnu::target("avx512f")]] void dot_bf16(int c, int a, int b) {
  for (int m = 0; m < tiles.config.rows[c]; ++m) {
    uint32_t left[16];
    std::memcpy(left, tiles.tile[a][m], 64);
    Floats sum, even = {}, odd = {};
    for (int k = 0; k < tiles.config.row_bytes[a] / 4; ++k) {
      Integers right;
      std::memcpy(&right, tiles.tile[b][k], 64);
      even += (Floats)(left[k] << 16 | Integers{}) * (Floats)(right << 16);
      odd += (Floats)((left[k] & 0xffff0000u) | Integers{}) * (Floats)(right & 0xffff0000u);
    }
    std::memcpy(&sum, tiles.tile[c][m], 64);
    sum += even + odd;
    std::memcpy(tiles.tile[c][m], &sum, tiles.config.row_bytes[c]);
  }
}

// c += a · b over groups of four bytes, those of a signed, those of b not; sums wrap.
[[gnu::target("avx512f")]] void dot_bytes(int c, int a, int b) {
  for (int m = 0; m < tiles.config.rows[c]; ++m) {
    Integers sum;
    std::memcpy(&sum, tiles.tile[c][m], 64);
    for (int k = 0; k < tiles.config.row_bytes[a] / 4; ++k) {
      Integers right;
      std::memcpy(&right, tiles.tile[b][k], 64);
      for (int i = 0; i < 4; ++i)
        sum += uint32_t(int8_t(tiles.tile[a][m][4 * k + i])) * (right >> 8 * i & 0xffu);
    }
    std::memcpy(tiles.tile[c][m], &sum, tiles.config.row_bytes[c]);
  }
}

// A load when `to_memory` is false. Rows and bytes beyond the tile's configuration become zero.
void move(int t, uint8_t* memory, int64_t stride, bool to_memory) {
  if (!to_memory) std::memset(tiles.tile[t], 0, sizeof tiles.tile[t]);
  for (int r = 0; r < tiles.config.rows[t]; ++r, memory += stride)
    to_memory ? std::memcpy(memory, tiles.tile[t][r], tiles.config.row_bytes[t])
              : std::memcpy(tiles.tile[t][r], memory, tiles.config.row_bytes[t]);
}

// ---- One instruction: C4, [~RXB, map], [W, ~vvvv, L, pp], opcode, ModRM, SIB, displacement.

constexpr uint8_t kFirst = 0xC4, kBreakpoint = 0xCC;  // the latter where it once was the former

constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};

struct Instruction {
  uint8_t *memory, *next;
  int64_t stride;  // the scaled index, which a tile load or store takes for its stride
  int opcode, prefix, reg, rm, vvvv;
  bool of_registers;
};

bool decode(uint8_t* at, const greg_t* registers, Instruction& i) {
  const uint8_t* p = at;
  if (p[0] != kFirst && p[0] != kBreakpoint) return false;
  if ((p[1] & 0x1f) != 2 || (p[2] & 0x84) != 0) return false;  // 0F38, W0, 128
  const int modrm = p[4], mod = modrm >> 6, base_bit = p[1] & 0x20 ? 0 : 8,
            index_bit = p[1] & 0x40 ? 0 : 8;
  i = {};
  i.opcode = p[3], i.prefix = p[2] & 3, i.vvvv = ~(p[2] >> 3) & 15;
  i.reg = modrm >> 3 & 7, i.rm = modrm & 7, i.of_registers = mod == 3;
  i.next = at + 5;
  if (i.of_registers) return true;
  int base = i.rm;
  if (i.rm == 4) {
    const int sib = *i.next++, index = (sib >> 3 & 7) | index_bit;
    base = sib & 7;
    if (index != 4) i.stride = registers[kRegisters[index]] << (sib >> 6);
  }
  const bool no_base = mod == 0 && base == 5;
  int64_t displacement = 0;
  if (mod == 1) displacement = int8_t(*i.next++);
  if (mod == 2 || no_base) {
    int32_t wide;
    std::memcpy(&wide, i.next, 4);
    displacement = wide, i.next += 4;
  }
  int64_t origin = no_base ? 0 : registers[kRegisters[base | base_bit]];
  if (no_base && i.rm == 5) origin = reinterpret_cast<int64_t>(i.next);  // relative to RIP
  i.memory = reinterpret_cast<uint8_t*>(origin + displacement);
  return true;
}

bool perform(const Instruction& i) {
  enum { kNone, k66, kF3, kF2 };
  if (i.opcode == 0x49 && i.prefix == kNone) {
    std::memset(&tiles, 0, sizeof tiles);                                      // tilerelease
    if (!i.of_registers) std::memcpy(&tiles.config, i.memory + i.stride, 64);  // ldtilecfg
    return true;
  }
  if (tiles.config.palette != 1) return false;  // no configuration, no tiles: as the hardware
  if (i.opcode == 0x49 && i.prefix == kF2 && i.of_registers)
    std::memset(tiles.tile[i.reg], 0, sizeof tiles.tile[i.reg]);
  else if (i.opcode == 0x4B && (i.prefix == kF2 || i.prefix == kF3) && !i.of_registers)
    move(i.reg, i.memory, i.stride, i.prefix == kF3);
  else if (i.opcode == 0x5C && i.prefix == kF3 && i.of_registers && i.vvvv < 8)
    dot_bf16(i.reg, i.rm, i.vvvv);
  else if (i.opcode == 0x5E && i.prefix == kF3 && i.of_registers && i.vvvv < 8)
    dot_bytes(i.reg, i.rm, i.vvvv);
  else
    return false;
  return true;
}

// ---- The signals. What is not ours goes to whoever was there before, then to the default.

struct sigaction before_illegal, before_breakpoint;

// An unknown instruction costs a virtual machine ten times what a breakpoint does: the next time.
void set_breakpoint(uint8_t* at) {
  const uintptr_t page = reinterpret_cast<uintptr_t>(at) & ~uintptr_t(4095);
  const int all = PROT_READ | PROT_WRITE | PROT_EXEC;
  if (mprotect(reinterpret_cast<void*>(page), 4096, all) == 0)
    __atomic_store_n(at, kBreakpoint, __ATOMIC_RELAXED);
}

void on_signal(int signal, siginfo_t* info, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const bool raised = info->si_code > 0;  // by an instruction, not sent
  uint8_t* const first =
      reinterpret_cast<uint8_t*>(registers[REG_RIP]) - (raised && signal == SIGTRAP);
  uint8_t* at = first;
  Instruction i;
  // either costs microseconds: the tile instructions that follow directly are done along with it
  while (raised && decode(at, registers, i) && perform(i)) at = i.next;
  if (at != first) {
    if (signal == SIGILL) set_breakpoint(first);
    registers[REG_RIP] = reinterpret_cast<greg_t>(at);
    return;
  }
  if (raised && signal == SIGTRAP && decode(first, registers, i)) {  // ours, not to be performed
    __atomic_store_n(first, kFirst, __ATOMIC_RELAXED);
    registers[REG_RIP] = reinterpret_cast<greg_t>(first);
    return;
  }
  struct sigaction& before = signal == SIGILL ? before_illegal : before_breakpoint;
  sigaction(signal, &before, nullptr);  // on return the illegal instruction faults again
  before = {};                          // SIG_DFL, should it come back here
  if (!raised || signal == SIGTRAP) raise(signal);
}

}  // namespace
#endif

using Tiers = std::vector<const rtfm::cpu::Kernels*>;

// The linker's --wrap (CMakeLists.txt) makes every call of available_tiers come here.
Tiers real_available_tiers() asm("__real__ZN4rtfm3cpu15available_tiersEv");
Tiers wrapped_available_tiers() asm("__wrap__ZN4rtfm3cpu15available_tiersEv");

namespace rtfm::testing {

bool install_amx_emulator() {
#if defined(RTFM_HAVE_AMX) && defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  struct sigaction ours = {};
  ours.sa_sigaction = on_signal;
  ours.sa_flags = SA_SIGINFO;
  for (const auto& [signal, before] :
       {std::pair(SIGILL, &before_illegal), std::pair(SIGTRAP, &before_breakpoint)}) {
    struct sigaction current;
    sigaction(signal, nullptr, &current);
    if (current.sa_sigaction == on_signal) continue;
    *before = current;
    if (sigaction(signal, &ours, nullptr) != 0) return false;
  }
  return true;
#else
  return false;
#endif
}

}  // namespace rtfm::testing

// As the runtime's, and the AMX tiers on the emulator where both are missing.
Tiers wrapped_available_tiers() {
  Tiers tiers = real_available_tiers();
#if defined(RTFM_HAVE_AMX)
  const auto has = [&](const rtfm::cpu::Kernels& kernels) {
    return std::find(tiers.begin(), tiers.end(), &kernels) != tiers.end();
  };
  if (has(rtfm::cpu::avx512::kernels) && !has(rtfm::cpu::amx::kernels) &&
      rtfm::testing::install_amx_emulator()) {
    tiers.insert(tiers.begin(), &rtfm::cpu::amx::kernels);
    tiers.push_back(&rtfm::cpu::amx_int8::kernels);  // behind vnni and avx_vnni, which are real
  }
#endif
  return tiers;
}
