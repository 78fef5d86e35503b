// SPDX-License-Identifier: Apache-2.0
// Attention of the tokens of one picture to each other, without a page.
#pragma once

#include <memory>

#include "src/layers.h"

namespace rtfm {

struct HeadSizes {
  int64_t tokens, heads, dim;
  int64_t rope;  // pairs that turn, the last 2 * rope dims of a head
};

class SelfAttention {
 public:
  // Tables of angles [tokens, rope] under `rope`.cos and `rope`.sin.
  SelfAttention(const Weights& weights, const std::string& rope, const HeadSizes& sizes);

  struct Workspace {
    Buffer query, slot;
  };
  Workspace make_workspace(const std::shared_ptr<Backend>& backend) const;

  // qkv [tokens, 3 * heads * dim] f32 -> y [tokens, heads * dim] operand
  void operator()(Backend& backend, const Workspace& w, const Tensor& qkv, const Tensor& y) const;

 private:
  HeadSizes sizes_;
  Buffer cos_, sin_;
};

}  // namespace rtfm
