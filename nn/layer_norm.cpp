#include "nn/layer_norm.h"

#include "autograd/ops.h"

namespace pyramoe::nn {

LayerNorm::LayerNorm(int64_t dim, const Build& build) {
  weight_ = add_parameter("weight", {dim}, build, Init::ones(), false);
  bias_ = add_parameter("bias", {dim}, build, Init::zeros(), false);
}

Var LayerNorm::forward(const Var& x) const { return ops::layer_norm(x, weight_, bias_); }

Vars LayerNorm::forward_sum(const Var& x, const Var& residual) const {
  return ops::add_layer_norm(x, residual, weight_, bias_);
}

}  // namespace pyramoe::nn
