#include "moe/residual_moe.h"

#include "autograd/ops.h"

namespace pyramoe::moe {

ResidualMoe::ResidualMoe(const ModelConfig& config, const LayerPlan& plan, const nn::Build& build)
    : moe_(add_module("moe", std::make_unique<MoeLayer>(config, plan, build))),
      mlp_(add_module("mlp", std::make_unique<nn::Mlp>(config.dim, config.residual_hidden(),
                                                       config.init_std, config.out_std(), build))) {
  if (config.residual_mix == "learned") {
    mix_ = &add_module("mix", std::make_unique<nn::Linear>(2, config.dim, config.init_std, build));
  }
}

nn::FfnOut ResidualMoe::forward(const Var& x, nn::Context& context) {
  MoeLayer::Sent sent = moe_.send(x, context);
  const Var dense = mlp_.forward(x);  // (N, D), while tokens travel
  Var share;                          // (N, 2)
  if (mix_) share = ops::softmax(mix_->forward(x));
  nn::FfnOut out = moe_.finish(std::move(sent));
  out.y = mix_ ? ops::mix(out.y, dense, share) : ops::add(out.y, dense);
  return out;
}

}  // namespace pyramoe::moe
