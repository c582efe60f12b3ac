// The model's head for inference: logits of the tokenizer's tokens only.
//
// A vocabulary is often padded (50257 to 50304) so that matrices have round sizes. The padding is
// no token: it must not be said, and must take no probability from those that are. So the head runs
// on the first rows of the tied table, as an exported model has them.
#pragma once

#include "core/kernels/matmul.h"
#include "nn/gpt.h"

namespace pyramoe::infer {

class Head {
 public:
  // `vocab` tokens; 0 = the whole table.
  Head(nn::Gpt& model, int64_t vocab);
  int64_t vocab() const { return table_.dim(0); }
  Tensor logits(const Tensor& features /* (N, D) */) const;  // (N, vocab)

 private:
  Tensor table_;  // (vocab, D), a view of the weights
};

}  // namespace pyramoe::infer
