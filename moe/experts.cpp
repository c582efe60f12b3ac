#include "moe/experts.h"

#include "autograd/ops.h"

namespace pyramoe::moe {

using nn::Init;

Experts::Experts(int64_t experts, int64_t dim, int64_t hidden, double std, double out_std,
                 const nn::Build& build)
    : up_(add_expert_parameter("up.weight", {experts, hidden, dim}, build, Init::normal(std))),
      down_(add_expert_parameter("down.weight", {experts, dim, hidden}, build,
                                 Init::normal(out_std))) {
  if (!build.bias) return;
  up_bias_ = add_expert_parameter("up.bias", {experts, hidden}, build, Init::zeros(), false);
  down_bias_ = add_expert_parameter("down.bias", {experts, dim}, build, Init::zeros(), false);
}

Segments Experts::forward(const Segments& in) const {
  return {ops::grouped_mlp(in.x, in.offsets, up_, up_bias_, down_, down_bias_), in.offsets};
}

}  // namespace pyramoe::moe
