// A linear layer cut over tensor ranks.
//
// By columns, each rank makes its part of the output from the whole input; by rows, each rank takes
// its part of the input and the products are summed over the ranks. A column layer, something
// elementwise, a row layer: one sum forward and one backward. On one rank it is nn::Linear.
// Source: Megatron-LM.
#pragma once

#include "nn/module.h"

namespace pyramoe::nn {

enum class TensorCut { columns, rows };

class TensorLinear : public Module {
 public:
  // out may have more than one axis (as the packed qkv weight has): weight = (out..., in). Columns
  // are cut along its last axis.
  TensorLinear(Shape out, int64_t in, bool bias, double std, const Build& build, TensorCut cut);
  TensorLinear(int64_t out, int64_t in, double std, const Build& build, TensorCut cut)
      : TensorLinear(Shape{out}, in, true, std, build, cut) {}

  // (N, in) -> (N, out); of cut axes the part of this rank.
  Var forward(const Var& x) const;
  const Var& weight() const { return weight_; }
  const Var& bias() const { return bias_; }  // undefined where there is none; of rows the whole

 private:
  Var weight_, bias_;
  dist::ProcessGroup tensor_;  // over which this layer is cut; one rank where it is not
  TensorCut cut_;
};

}  // namespace pyramoe::nn
