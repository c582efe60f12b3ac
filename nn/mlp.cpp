#include "nn/mlp.h"

#include "autograd/ops.h"
#include "dist/collective_ops.h"

namespace pyramoe::nn {

Mlp::Mlp(int64_t dim, int64_t hidden, double std, double out_std, const Build& build)
    : tensor_(build.tensor()),
      up_(add_module("up",
                     std::make_unique<TensorLinear>(hidden, dim, std, build, TensorCut::columns))),
      down_(add_module(
          "down", std::make_unique<TensorLinear>(dim, hidden, out_std, build, TensorCut::rows))) {}

Var Mlp::forward(const Var& x) const {
  if (tensor_.size() == 1) {
    return ops::mlp(x, up_.weight(), up_.bias(), down_.weight(), down_.bias());
  }
  const Var part =
      ops::mlp(dist::copy_to(x, tensor_), up_.weight(), up_.bias(), down_.weight(), Var());
  return dist::add_bias(dist::sum_from(part, tensor_), down_.bias());
}

FfnOut Mlp::forward(const Var& x, Context&) { return {forward(x), Var(), Var()}; }

}  // namespace pyramoe::nn
