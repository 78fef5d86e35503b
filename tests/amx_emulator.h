// SPDX-License-Identifier: Apache-2.0
// Test only: the AMX instructions of csrc/cpu in software, so that the machine code of the AMX
// tiers themselves runs on any x86-64 Linux machine with AVX512-BF16. A hidden tile unit raises
// SIGILL.
#pragma once

namespace rtfm::testing {

// Puts the emulator in front of whoever handles SIGILL now, unless it is there already. False where
// the tiers cannot run even so: they were not built, or the CPU lacks AVX512-BF16.
bool install_amx_emulator();

}  // namespace rtfm::testing
