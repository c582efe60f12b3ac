// Causal multi-head self-attention: packed query/key/value projection, fused attention, output
// projection. The packed weight is (3, D, D), so heads cut axis 1.
#pragma once

#include "nn/context.h"
#include "nn/tensor_linear.h"

namespace pyramoe::nn {

struct AttentionOptions {
  int64_t dim = 0, heads = 0;
  double std = 0.02, out_std = 0.02;  // GPT-2 scales the output projection by 1 / sqrt(2 L)
  double dropout = 0;
};

class Attention : public Module {
 public:
  Attention(const AttentionOptions& options, const Build& build);
  Var forward(const Var& x /* (N, D) */, Context& context) const;  // (N, D)

 private:
  AttentionOptions options_;
  int64_t heads_, first_head_;  // of this tensor rank
  TensorLinear& qkv_;
  TensorLinear& out_;
};

}  // namespace pyramoe::nn
