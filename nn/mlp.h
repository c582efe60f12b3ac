// The dense feed-forward half of a block: D -> F, GELU, F -> D.
#pragma once

#include "nn/feed_forward.h"
#include "nn/tensor_linear.h"

namespace pyramoe::nn {

class Mlp : public FeedForward {
 public:
  Mlp(int64_t dim, int64_t hidden, double std, double out_std, const Build& build);
  FfnOut forward(const Var& x, Context& context) override;
  Var forward(const Var& x) const;  // (N, D) -> (N, D)

 private:
  dist::ProcessGroup tensor_;  // the hidden axis is cut over it
  TensorLinear& up_;
  TensorLinear& down_;
};

}  // namespace pyramoe::nn
