// SPDX-License-Identifier: Apache-2.0
// How matrices, queries and context slots lie in the memory of a GPU.
#pragma once

#include "csrc/cuda/body.h"

namespace rtfm::cuda {

RTFM_BODY constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A slot is K, then V, each [heads, padded_keys, dim]; queries are [heads, padded_queries, dim].
RTFM_BODY constexpr int64_t padded_keys(int64_t tokens) { return round_up(tokens, 64); }
RTFM_BODY constexpr int64_t padded_queries(int64_t tokens) { return round_up(tokens, 128); }

// Weights are [padded_rows(n), padded_cols(k)]; so are activations.
RTFM_BODY constexpr int64_t padded_rows(int64_t rows) { return round_up(rows, 128); }
RTFM_BODY constexpr int64_t padded_cols(int64_t cols) { return round_up(cols, 64); }

// In e4m3: [padded_rows, padded_cols_e4m3] bytes, then the scale of each row, f32 [rows].
RTFM_BODY constexpr int64_t padded_cols_e4m3(int64_t cols) { return round_up(cols, 128); }
RTFM_BODY constexpr int64_t e4m3_bytes(int64_t rows, int64_t cols) {
  return padded_rows(rows) * padded_cols_e4m3(cols);
}

}  // namespace rtfm::cuda
