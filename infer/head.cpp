#include "infer/head.h"

namespace pyramoe::infer {

Head::Head(nn::Gpt& model, int64_t vocab) {
  for (const nn::Parameter* parameter : model.parameters()) {
    if (parameter->name == "embed.tokens") table_ = parameter->var.value();
  }
  PM_CHECK(table_.defined(), "Head: the model has no parameter embed.tokens");
  PM_CHECK(vocab >= 0 && vocab <= table_.dim(0), "Head: ", vocab, " tokens of a table of ",
           table_.dim(0));
  if (vocab > 0) table_ = table_.rows(0, vocab);
}

Tensor Head::logits(const Tensor& features) const {
  Tensor y({features.dim(0), vocab()}, features.dtype(), features.device());
  kernels::linear_forward(features, table_, Tensor(), y);
  return y;
}

}  // namespace pyramoe::infer
