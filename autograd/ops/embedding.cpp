// Token plus position embedding; table gradients go straight to their place.
#include "core/kernels/embedding.h"

#include "autograd/ops.h"

namespace pyramoe::ops {

Var embedding(const Tensor& token, const Tensor& position, const Var& token_table,
              const Var& position_table) {
  const Tensor tokens = token_table.value(), positions = position_table.value();
  Tensor y({token.numel(), tokens.dim(1)}, tokens.dtype(), tokens.device());
  kernels::embedding_forward(token, position, tokens, positions, y);
  const bool need[2] = {token_table.requires_grad(), position_table.requires_grad()};
  return record(
      "embedding", {y}, {token_table, position_table},
      [=](const Grads& dy, const GradInto& into) -> Grads {
        Grads grads(2);
        for (size_t i = 0; i < 2; ++i) {
          if (!need[i]) continue;
          grads[i] =
              into[i].buffer.defined() ? into[i].buffer : empty_like(i == 0 ? tokens : positions);
          kernels::embedding_backward(dy[0], i == 0 ? token : position, into[i].add, grads[i]);
        }
        return grads;
      })[0];
}

}  // namespace pyramoe::ops
