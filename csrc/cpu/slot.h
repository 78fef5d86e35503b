// SPDX-License-Identifier: Apache-2.0
// The packed K/V of one frame as attention reads it (a context slot), and the packed queries. Each
// layout has SlotLayout, pack_slot, query_stride (bytes) and pack_queries; where attention can read
// a page in place (kReadsPages), point_to makes a slot say so.
#pragma once

#if defined(__AMX_TILE__)
#include "csrc/cpu/slot_amx.h"
#elif defined(RTFM_BF16)
#include "csrc/cpu/slot_bf16.h"
#elif defined(RTFM_INT8) && !defined(__aarch64__)  // SDOT does not multiply the int16 of V
#include "csrc/cpu/slot_int8.h"
#else
#include "csrc/cpu/slot_f32.h"
#endif
