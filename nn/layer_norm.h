// Layer normalisation with a learned scale and shift.
#pragma once

#include "nn/module.h"

namespace pyramoe::nn {

class LayerNorm : public Module {
 public:
  LayerNorm(int64_t dim, const Build& build);
  Var forward(const Var& x) const;  // (N, D) -> (N, D)
  // h = x + residual, and the norm of h, in one pass over memory.   {h, norm}, each (N, D)
  Vars forward_sum(const Var& x, const Var& residual) const;

 private:
  Var weight_, bias_;
};

}  // namespace pyramoe::nn
