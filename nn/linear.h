// y = x w^T + bias, the weight stored (out, in).
#pragma once

#include "nn/module.h"

namespace pyramoe::nn {

class Linear : public Module {
 public:
  // out may have more than one axis (as the packed qkv weight has): weight = (out..., in).
  Linear(Shape out, int64_t in, bool bias, double std, const Build& build);
  Linear(int64_t out, int64_t in, double std, const Build& build)
      : Linear(Shape{out}, in, true, std, build) {}

  Var forward(const Var& x) const;  // (N, in) -> (N, out)
  const Var& weight() const { return weight_; }
  const Var& bias() const { return bias_; }  // undefined where there is none

 private:
  Var weight_, bias_;
};

}  // namespace pyramoe::nn
