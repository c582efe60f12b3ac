// What a block's second half must fill: a dense MLP here, experts in moe/. So nn never names moe.
#pragma once

#include "nn/context.h"
#include "nn/module.h"

namespace pyramoe::nn {

struct FfnOut {
  Var y;             // (N, D)
  Var balance_loss;  // (1), undefined without experts
  Var z_loss;        // (1), undefined when there is no balance_loss or moe.z_coef = 0
};

class FeedForward : public Module {
 public:
  virtual FfnOut forward(const Var& x /* (N, D) */, Context& context) = 0;
};

}  // namespace pyramoe::nn
