// Linear, gate, capacity, rows: from tokens to a Routing. All of it in f32 or wider, whatever the
// model's dtype; its weight is kept so too. All noise and every drop is for training alone.
#pragma once

#include "moe/balance_loss.h"
#include "moe/capacity.h"
#include "moe/gate.h"
#include "moe/layer_plan.h"
#include "nn/module.h"

namespace pyramoe::moe {

class Router : public nn::Module {
 public:
  Router(const ModelConfig& config, const LayerPlan& plan, const nn::Build& build);

  // x (N, D), N = context.batch * context.length; where tensor ranks share the tokens, this rank's
  // part of them, and the Routing is of that part. Capacity and losses are of all tokens.
  Routing route(const Var& x, const nn::Context& context) const;

  // True when the gate steers by a balancing bias (buffer `balance_bias`).
  bool has_bias() const { return bias_.defined(); }
  const Tensor& bias() const { return bias_.value(); }
  // Moves the bias one step against `load`: once per optimizer step, with the loads of all its
  // micro-batches and ranks summed.   load (E) i64
  void update_bias(const Tensor& load) const;
  int64_t experts() const { return experts_; }  // slots, with or without an expert
  // With moe.budget some slots are empty: nothing is ever routed there. Whether each slot has an
  // expert; waits for the device.
  std::vector<bool> live() const;
  // Counted at the first call and after set_live: weights are loaded before the first pass.
  int64_t live_count() const;
  void set_live(int64_t slot, bool live) const;
  // Whether the fused op may be used; without it routing goes op by op.
  void allow_fused(bool yes) { fused_ = yes; }

 private:
  Var logits(const Var& x, const dist::ProcessGroup& slice, const nn::Context& context) const;
  Choice choose(const Var& logits, const nn::Context& context) const;
  int64_t places(int64_t rows, const nn::Context& context) const;
  Tensor keep(const Tensor& expert, const Tensor& weight, int64_t rows, int64_t capacity,
              const nn::Context& context) const;
  // Both fill the Routing's x, expert and losses, and return the scores of the choices, (N, k).
  bool fuses(const Var& x, const dist::ProcessGroup& slice, const nn::Context& context) const;
  Var score_fused(const Var& x, const nn::Context& context, Routing& r) const;
  Var score_plain(const Var& x, const dist::ProcessGroup& slice, const nn::Context& context,
                  Routing& r) const;

  enum class Noise { none, jitter, rsample };
  std::unique_ptr<Gate> gate_;
  int64_t experts_, top_k_, group_, min_capacity_;
  double capacity_factor_, jitter_, bias_rate_;
  kernels::DropBy drop_by_;
  Noise noise_;
  bool renormalize_, force_balance_, softmax_gate_, fused_ = true;
  BalanceOptions balance_;
  dist::ProcessGroup slice_;  // tensor ranks that each have a part of the tokens
  Var weight_, bias_;
  mutable int64_t live_count_ = -1;  // -1: to be counted
  Var mask_;  // (E), added to the logits: 0, or for an empty slot a number that no token chooses
};

}  // namespace pyramoe::moe
