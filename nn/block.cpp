#include "nn/block.h"

#include "autograd/ops.h"

namespace pyramoe::nn {

Block::Block(const AttentionOptions& attention, double dropout, std::unique_ptr<FeedForward> ffn,
             const Build& build)
    : dropout_(dropout),
      norm1_(add_module("norm1", std::make_unique<LayerNorm>(attention.dim, build))),
      attention_(add_module("attention", std::make_unique<Attention>(attention, build))),
      norm2_(add_module("norm2", std::make_unique<LayerNorm>(attention.dim, build))),
      ffn_(add_module("ffn", std::move(ffn))) {}

FfnOut Block::forward(const Var& x, Context& context) {
  const auto drop = [&](const Var& y, uint32_t half) {
    RngKey key = context.key(RngPurpose::dropout);
    key.layer = key.layer * 2 + half;
    return ops::dropout(y, context.training ? dropout_ : 0.0, key, context.first_token());
  };
  const Var y = drop(attention_.forward(norm1_.forward(x), context), 0);
  const Vars middle = norm2_.forward_sum(x, y);  // {x + y, its norm}
  FfnOut out = ffn_.forward(middle[1], context);
  out.y = ops::add(middle[0], drop(out.y, 1));
  return out;
}

}  // namespace pyramoe::nn
