// Every setting that is part of the model: what it computes depends on these and on nothing else
// (not on ranks, threads or micro-batches).
#pragma once

#include <cmath>
#include <string>

#include "core/config.h"

namespace pyramoe::moe {

struct ModelConfig {
  int64_t layers = 12;
  int64_t dim = 768;
  int64_t heads = 12;
  int64_t context = 1024;
  int64_t vocab = 50304;
  int64_t hidden = 0;  // 0 = 4 * dim
  bool bias = true;
  double dropout = 0;
  double init_std = 0.02;

  std::string experts = "0";
  int64_t top_k = 1;
  int64_t expert_hidden = 0;
  std::string gate = "softmax";
  std::string noise = "none";
  double jitter = 0.01;
  int64_t group = 1;
  double capacity_factor = 0;
  int64_t min_capacity = 4;
  std::string drop_by = "position";
  bool renormalize = false;
  bool residual = false;
  std::string residual_mix = "sum";
  int64_t shared_hidden = 0;
  std::string balance_loss = "first";
  double balance_coef = 0.01;
  double z_coef = 0;
  double bias_rate = 0.001;
  bool force_balance = false;
  std::string dispatch = "segments";
  int64_t budget = 0;
  int64_t resize_every = 100;
  int64_t resize_moves = 1;
  double resize_until = 0.75;

  template <class V>
  void fields(V& v) {
    v("model.layers", layers, "transformer blocks", between(1, 1000));
    v("model.dim", dim, "features per token", between(1, 1 << 20));
    v("model.heads", heads, "attention heads; must divide model.dim", between(1, 1 << 16));
    v("model.context", context, "longest sequence, tokens", between(1, 1 << 24));
    v("model.vocab", vocab, "vocabulary size; at least the tokenizer's", between(2, 1 << 24));
    v("model.hidden", hidden, "hidden size of a dense MLP; 0 = 4 * model.dim", between(0, 1 << 24));
    v("model.bias", bias,
      "biases in linear layers and experts (norms keep theirs); GPT-2 has them, the paper's sizes "
      "are counted without");
    v("model.dropout", dropout, "dropout of embeddings, attention and residual branches",
      between(0.0, 0.99));
    v("model.init_std", init_std,
      "standard deviation of initial weights; output projections are scaled by 1/sqrt(2 layers)",
      between(1e-6, 10.0));
    v("moe.experts", experts,
      "experts in each block's second half, 0 = dense: one number for all blocks, or a list such "
      "as \"(0 32)*10 (0 64)*2\" that expands to model.layers entries",
      number_as_text());
    v("moe.top_k", top_k, "experts chosen for each token", between(1, 1024));
    v("moe.hidden", expert_hidden, "hidden size of an expert; 0 = 4 * model.dim",
      between(0, 1 << 24));
    v("moe.gate", gate,
      "how scores are made and who is chosen: softmax, or sigmoid_bias "
      "(a bias per expert, moved against its load, steers the choice; with moe.balance_coef = 0 "
      "free of an auxiliary loss)",
      one_of({"softmax", "sigmoid_bias"}));
    v("moe.noise", noise,
      "routing noise in training: none, jitter (gate input times U(1 +- "
      "moe.jitter)) or rsample (Gumbel noise on the logits of the choice)",
      one_of({"none", "jitter", "rsample"}));
    v("moe.jitter", jitter, "width of the jitter noise", between(0.0, 1.0));
    v("moe.group", group,
      "routing group: consecutive sequences that share capacity and balance "
      "loss; must divide train.micro_batch",
      between(1, 1 << 20));
    v("moe.capacity_factor", capacity_factor,
      "rows an expert takes from a group, relative to an "
      "even share of its choices; 0 = dropless. Evaluation never drops",
      between(0.0, 1e6));
    v("moe.min_capacity", min_capacity, "least rows an expert takes from a group",
      between(1, 1 << 24));
    v("moe.drop_by", drop_by,
      "who is dropped beyond capacity: position (later tokens), "
      "probability (lowest gate probability) or random (random token selection)",
      one_of({"position", "probability", "random"}));
    v("moe.renormalize", renormalize,
      "divide a token's kept weights by their sum (top-2 and more "
      "usually do; with top_k = 1 the raw probability is the paper's choice: divided, "
      "every weight is 1 and the router learns from the balance loss alone)");
    v("moe.residual", residual, "Residual-MoE: a dense MLP beside the experts (PR-MoE)");
    v("moe.residual_mix", residual_mix,
      "how the two branches meet: sum (the paper's text) or "
      "learned (a softmax of two per token, the released code)",
      one_of({"sum", "learned"}));
    v("moe.shared_hidden", shared_hidden,
      "hidden size of the residual MLP (a shared expert); 0 = "
      "as moe.hidden",
      between(0, 1 << 24));
    v("moe.balance_loss", balance_loss,
      "which choices the load-balancing loss counts: first "
      "(GShard, DeepSpeed top-1 and top-2) or all (Switch for k choices)",
      one_of({"first", "all"}));
    v("moe.balance_coef", balance_coef, "weight of the load-balancing loss, summed over layers",
      between(0.0, 1e3));
    v("moe.z_coef", z_coef, "weight of the router z-loss (ST-MoE), summed over layers",
      between(0.0, 1e3));
    v("moe.bias_rate", bias_rate, "step of the balancing bias (gate sigmoid_bias)",
      between(0.0, 1.0));
    v("moe.force_balance", force_balance, "route tokens round-robin, for benchmarks only");
    v("moe.dispatch", dispatch,
      "segments (sorted rows, grouped GEMM) or einsum (dense one-hot, "
      "the baseline of the paper's sparse-dispatch comparison)",
      one_of({"segments", "einsum"}));
    v("moe.budget", budget,
      "live experts of all layers together; moe.experts are then slots, every layer starts with an "
      "equal share of the budget, and experts move to the layers that need them; 0 = every slot is "
      "an expert, for good",
      between(0, 1 << 24));
    v("moe.resize_every", resize_every, "steps between moves of experts (moe.budget)",
      between(1, int64_t{1} << 40));
    v("moe.resize_moves", resize_moves, "most experts that move at a time", between(1, 1 << 16));
    v("moe.resize_until", resize_until,
      "share of the run's tokens after which no expert moves any more", between(0.0, 1.0));
  }

  int64_t dense_hidden() const { return hidden > 0 ? hidden : 4 * dim; }
  int64_t moe_hidden() const { return expert_hidden > 0 ? expert_hidden : 4 * dim; }
  int64_t residual_hidden() const { return shared_hidden > 0 ? shared_hidden : moe_hidden(); }
  // GPT-2: what is added to the residual stream shrinks with the number of additions.
  double out_std() const { return init_std / std::sqrt(2.0 * static_cast<double>(layers)); }
};

}  // namespace pyramoe::moe
