#include "nn/gpt.h"

#include "autograd/checkpoint.h"
#include "autograd/ops.h"
#include "dist/collective_ops.h"
#include "nn/memory_probe.h"

namespace pyramoe::nn {

Gpt::Gpt(const GptOptions& options, const MakeFfn& make_ffn, const Build& build)
    : options_(options),
      build_(build),
      embed_(add_module("embed", std::make_unique<Embedding>(options.vocab, options.context,
                                                             options.attention.dim,
                                                             options.attention.std, build))) {
  for (int64_t i = 0; i < options.layers; ++i) {
    blocks_.push_back(&add_module(
        "blocks." + std::to_string(i),
        std::make_unique<Block>(options.attention, options.dropout, make_ffn(i), build)));
  }
  norm_ = &add_module("norm", std::make_unique<LayerNorm>(options.attention.dim, build));
  recomputed_.assign(blocks_.size(), options.recompute);
}

// The side losses travel through the checkpoint as outputs, so that their gradients do too. The
// second pass starts from the counters of the first and leaves its side results in a copy that
// nobody reads.
FfnOut Gpt::run_block(size_t i, const Var& x, Context& context) {
  Block& block = *blocks_[i];
  if (!recomputed_[i] || !grad_enabled()) return block.forward(x, context);
  const Context at_entry = context;
  MemoryProbe* const probe = probe_;
  const auto measured = [probe, i](const auto& pass) {
    return probe ? probe->measure(static_cast<int64_t>(i), recomputing(), pass) : pass();
  };
  const VarFn pass = [&block, &context, at_entry, measured](const Vars& in) -> Vars {
    Context again = at_entry;
    const auto forward = [&] { return block.forward(in[0], recomputing() ? again : context); };
    const FfnOut out = recomputing() ? measured(forward) : forward();
    Vars all{out.y};
    if (out.balance_loss.defined()) all.push_back(out.balance_loss);
    if (out.z_loss.defined()) all.push_back(out.z_loss);
    return all;
  };
  const Vars y = measured([&] { return checkpoint(pass, {x}); });
  FfnOut out{y[0], Var(), Var()};
  if (y.size() > 1) out.balance_loss = y[1];
  if (y.size() > 2) out.z_loss = y[2];
  return out;
}

Var Gpt::features(const Tensor& tokens, Context& context, GptOut& out) {
  context.batch = tokens.dim(0);
  context.length = tokens.dim(1);
  RngKey key = context.key(RngPurpose::dropout);
  key.layer = static_cast<uint32_t>(2 * options_.layers);
  Var x = ops::dropout(embed_.forward(tokens, context), context.training ? options_.dropout : 0.0,
                       key, context.first_token());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    context.layer = static_cast<int64_t>(i);
    FfnOut y = run_block(i, x, context);
    x = y.y;
    if (y.balance_loss.defined()) out.balance_loss.push_back(y.balance_loss);
    if (y.z_loss.defined()) out.z_loss.push_back(y.z_loss);
  }
  return norm_->forward(x);
}

GptOut Gpt::forward(const Tensor& tokens, Context& context) {
  GptOut out;
  const Var x = features(tokens, context, out);
  out.logits = context.training ? embed_.logits(x) : head(x);
  return out;
}

Var Gpt::head(const Var& features) const {
  return dist::gather_from(embed_.logits(features), embed_.tensor(), 1);
}

KvCache Gpt::make_cache(int64_t batch, int64_t t_max) const {
  return KvCache::make(
      options_.layers, batch, t_max, options_.attention.heads / embed_.tensor().size(),
      options_.attention.dim / options_.attention.heads, build_.dtype, build_.device);
}

}  // namespace pyramoe::nn
