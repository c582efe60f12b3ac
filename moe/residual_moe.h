// Residual-MoE: a dense MLP that every token passes, beside the experts that correct it (the R of
// PR-MoE). The two meet as a sum (the paper's text) or by a learned mix of two per token (its
// released code).   Source: DeepSpeed-MoE, section 4.1.
#pragma once

#include "moe/moe_layer.h"
#include "nn/linear.h"
#include "nn/mlp.h"

namespace pyramoe::moe {

class ResidualMoe : public nn::FeedForward {
 public:
  ResidualMoe(const ModelConfig& config, const LayerPlan& plan, const nn::Build& build);
  nn::FfnOut forward(const Var& x, nn::Context& context) override;
  MoeLayer& moe() { return moe_; }

 private:
  MoeLayer& moe_;
  nn::Mlp& mlp_;
  nn::Linear* mix_ = nullptr;  // (D) -> 2: experts, MLP; null for the sum
};

}  // namespace pyramoe::moe
