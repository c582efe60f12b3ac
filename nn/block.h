// A pre-norm transformer block: x + attention(norm(x)), then x + ffn(norm(x)).
#pragma once

#include "nn/attention.h"
#include "nn/feed_forward.h"
#include "nn/layer_norm.h"

namespace pyramoe::nn {

class Block : public Module {
 public:
  Block(const AttentionOptions& attention, double dropout, std::unique_ptr<FeedForward> ffn,
        const Build& build);
  FfnOut forward(const Var& x, Context& context);  // y (N, D) and the ffn's side losses
  FeedForward& ffn() { return ffn_; }

 private:
  double dropout_;
  LayerNorm& norm1_;
  Attention& attention_;
  LayerNorm& norm2_;
  FeedForward& ffn_;
};

}  // namespace pyramoe::nn
