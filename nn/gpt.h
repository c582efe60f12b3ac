// GPT: embedding, blocks, final norm, tied head. What each block's second half is, a dense MLP or
// experts, is decided by whoever builds it (moe/build_model).
#pragma once

#include <functional>

#include "nn/block.h"
#include "nn/embedding.h"

namespace pyramoe::nn {

class MemoryProbe;  // nn/memory_probe.h

struct GptOptions {
  int64_t vocab = 0, context = 0, layers = 0;
  AttentionOptions attention;
  double dropout = 0;
  bool recompute = false;  // in training, recompute all blocks
};

struct GptOut {
  Var logits;         // (N, V); undefined from `features`; in training of tensor ranks its columns
  Vars balance_loss;  // (1) of each layer of experts, first layer first
  Vars z_loss;
};

class Gpt : public Module {
 public:
  using MakeFfn = std::function<std::unique_ptr<FeedForward>(int64_t layer)>;
  Gpt(const GptOptions& options, const MakeFfn& make_ffn, const Build& build);

  // tokens (B, T) i32. Sets context.batch, length and layer as it goes. In training every tensor
  // rank gets its columns of the logits, otherwise all of them.
  GptOut forward(const Tensor& tokens, Context& context);
  // Final features before the head, (N, D), and the side losses.
  Var features(const Tensor& tokens, Context& context, GptOut& out);
  // All logits, (N, V), and this tensor rank's columns of them.
  Var head(const Var& features) const;
  Var own_logits(const Var& features) const { return embed_.logits(features); }
  const dist::ProcessGroup& tensor() const { return embed_.tensor(); }
  const Var& head_weight() const { return embed_.tokens(); }  // (V, D), tied

  const GptOptions& options() const { return options_; }
  Block& block(int64_t i) { return *blocks_.at(static_cast<size_t>(i)); }
  // Of these blocks only the input is kept, and they run again in the backward pass.
  void recompute(const std::vector<bool>& blocks) { recomputed_ = blocks; }
  const std::vector<bool>& recomputed() const { return recomputed_; }
  // From now on measures recomputed blocks; null: no more. Borrowed.
  void probe(MemoryProbe* probe) { probe_ = probe; }
  KvCache make_cache(int64_t batch, int64_t t_max) const;

 private:
  // Runs block i, kept or recomputed.
  FfnOut run_block(size_t i, const Var& x, Context& context);

  GptOptions options_;
  Build build_;
  Embedding& embed_;
  std::vector<Block*> blocks_;
  LayerNorm* norm_ = nullptr;
  std::vector<bool> recomputed_;
  MemoryProbe* probe_ = nullptr;
};

}  // namespace pyramoe::nn
