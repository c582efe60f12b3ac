#include "nn/mlp.h"

namespace pyramoe::nn {

Mlp::Mlp(int64_t dim, int64_t hidden, double std, double out_std, const Build& build)
    : up_(add_module("up", std::make_unique<Linear>(hidden, dim, std, build))),
      down_(add_module("down", std::make_unique<Linear>(dim, hidden, out_std, build))) {}

Var Mlp::forward(const Var& x) const { return down_.forward(up_.forward_gelu(x)); }

FfnOut Mlp::forward(const Var& x, Context&) { return {forward(x), Var(), Var()}; }

}  // namespace pyramoe::nn
