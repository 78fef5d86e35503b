// SPDX-License-Identifier: Apache-2.0
#include "src/models/self_attention.h"

#include "src/check.h"

namespace rtfm {

SelfAttention::SelfAttention(const Weights& weights, const std::string& rope,
                             const HeadSizes& sizes)
    : sizes_(sizes), cos_(weights.vector(rope + ".cos")), sin_(weights.vector(rope + ".sin")) {}

SelfAttention::Workspace SelfAttention::make_workspace(
    const std::shared_ptr<Backend>& backend) const {
  const auto& [tokens, heads, dim, rope] = sizes_;
  return {.query = Buffer(backend, backend->query_bytes(heads, tokens, dim)),
          .slot = Buffer(backend, backend->slot_bytes(heads, tokens, dim))};
}

void SelfAttention::operator()(Backend& backend, const Workspace& w, const Tensor& qkv,
                               const Tensor& y) const {
  const auto& [tokens, heads, dim, rope] = sizes_;
  const int64_t width = heads * dim;
  check<Error>(qkv.rows == tokens && qkv.cols == 3 * width && y.rows == tokens && y.cols == width,
               "[self_attention] expected [", tokens, ", ", 3 * width, "] -> [", tokens, ", ",
               width, "], got [", qkv.rows, ", ", qkv.cols, "] -> [", y.rows, ", ", y.cols, "]");
  const float* q = static_cast<const float*>(qkv.data);
  backend.qkv_split({.q = q,
                     .k = q + width,
                     .v = q + 2 * width,
                     .q_gain = nullptr,
                     .k_gain = nullptr,
                     .cos = reinterpret_cast<const float*>(cos_.data()),
                     .sin = reinterpret_cast<const float*>(sin_.data()),
                     .query = w.query.data(),
                     .slot = w.slot.data(),
                     .inputs = nullptr,
                     .layer = 0,
                     .stride = qkv.stride,
                     .tokens = tokens,
                     .heads = heads,
                     .kv_heads = heads,
                     .dim = dim,
                     .rope = rope,
                     .eps = 0});
  backend.attention({.q = w.query.data(),
                     .context = w.slot.data(),
                     .y = y.data,
                     .y_stride = y.stride,
                     .slots = 1,
                     .tokens = tokens,
                     .heads = heads,
                     .kv_heads = heads,
                     .dim = dim});
}

}  // namespace rtfm
