// Token and position tables. The token table is also the head that turns features into logits
// (tied weights, as in GPT-2). Tensor ranks hold rows of the token table each.
#pragma once

#include "nn/context.h"
#include "nn/module.h"

namespace pyramoe::nn {

class Embedding : public Module {
 public:
  Embedding(int64_t vocab, int64_t context, int64_t dim, double std, const Build& build);
  // tokens (B, T) i32 -> (B * T, D). Positions start at 0, or at the cache's lengths.
  Var forward(const Tensor& tokens, const Context& context) const;
  // (N, D) -> logits (N, V); of tensor ranks each its columns.
  Var logits(const Var& x) const;
  const Var& tokens() const { return tokens_; }
  const dist::ProcessGroup& tensor() const { return tensor_; }

 private:
  Var tokens_, positions_;
  dist::ProcessGroup tensor_;
};

}  // namespace pyramoe::nn
