#include "nn/attention.h"

#include "autograd/ops.h"

namespace pyramoe::nn {

Attention::Attention(const AttentionOptions& options, const Build& build)
    : options_(options),
      heads_(options.heads / build.tensor().size()),
      first_head_(heads_ * build.tensor().rank()),
      qkv_(add_module("qkv",
                      std::make_unique<TensorLinear>(Shape{3, options.dim}, options.dim, true,
                                                     options.std, build, TensorCut::columns))),
      out_(add_module(
          "out", std::make_unique<TensorLinear>(options.dim, options.dim, options.out_std, build,
                                                TensorCut::rows))) {
  PM_CHECK(options.heads > 0 && options.dim % options.heads == 0, "Attention: dim ", options.dim,
           " is not a multiple of heads ", options.heads);
}

Var Attention::forward(const Var& x, Context& context) const {
  const int64_t b = context.batch, t = context.length, h = heads_;
  const int64_t dh = options_.dim / options_.heads, d = h * dh;
  const Var qkv = ops::reshape(qkv_.forward(x), {b, t, 3, h, dh});
  if (context.cache) {
    PM_CHECK(!grad_enabled(), "Attention: the cache is for inference; open a NoGrad scope");
    Tensor& layer = context.cache->layers.at(static_cast<size_t>(context.layer));
    Tensor y({b, t, d}, x.dtype(), x.value().device());
    kernels::attention_cached(qkv.value(), context.cache->lengths, layer, y);
    return out_.forward(Var(y.reshape({b * t, d})));
  }
  const kernels::AttentionDropout dropout{context.training ? options_.dropout : 0.0,
                                          context.key(RngPurpose::attention_dropout),
                                          context.first_sequence, first_head_, options_.heads};
  const Var y = ops::attention(qkv, dropout);  // (B, T, D)
  return out_.forward(ops::reshape(y, {b * t, d}));
}

}  // namespace pyramoe::nn
