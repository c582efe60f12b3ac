#include "nn/mlp.h"

#include "autograd/ops.h"

namespace pyramoe::nn {

Mlp::Mlp(int64_t dim, int64_t hidden, double std, double out_std, const Build& build)
    : up_(add_module("up", std::make_unique<Linear>(hidden, dim, std, build))),
      down_(add_module("down", std::make_unique<Linear>(dim, hidden, out_std, build))) {}

Var Mlp::forward(const Var& x) const {
  return ops::mlp(x, up_.weight(), up_.bias(), down_.weight(), down_.bias());
}

FfnOut Mlp::forward(const Var& x, Context&) { return {forward(x), Var(), Var()}; }

}  // namespace pyramoe::nn
