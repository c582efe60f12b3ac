#include "moe/router.h"

#include "autograd/ops.h"

namespace pyramoe::moe {

int64_t Routing::dropped() const {
  const Tensor last = offsets.rows(offsets.dim(0) - 1, offsets.dim(0));
  return row.numel() - static_cast<int64_t>(last.item());
}

Router::Router(const ModelConfig& config, const LayerPlan& plan, const nn::Build& build)
    : gate_(make_gate(config.gate)),
      experts_(plan.experts),
      top_k_(plan.top_k),
      group_(config.group),
      min_capacity_(config.min_capacity),
      capacity_factor_(config.capacity_factor),
      jitter_(config.jitter),
      bias_rate_(config.bias_rate),
      drop_by_(parse_drop_by(config.drop_by)),
      noise_(config.noise == "jitter"    ? Noise::jitter
             : config.noise == "rsample" ? Noise::rsample
                                         : Noise::none),
      renormalize_(config.renormalize),
      force_balance_(config.force_balance),
      balance_{config.balance_loss == "all", config.z_coef > 0} {
  PM_CHECK(top_k_ >= 1 && top_k_ <= experts_, "Router: ", top_k_, " choices among ", experts_,
           " experts");
  nn::Build wide = build;
  if (wide.dtype == DType::bf16) wide.dtype = DType::f32;
  weight_ =
      add_parameter("weight", {experts_, config.dim}, wide, nn::Init::normal(config.init_std));
  if (gate_->has_bias()) {
    bias_ = add_buffer("balance_bias", Tensor::zeros({experts_}, wide.dtype, build.device));
  }
}

Routing Router::route(const Var& x, const nn::Context& context) const {
  PM_CHECK(x.dim(0) == context.batch * context.length, "Router: ", x.dim(0), " tokens, but ",
           context.batch, " sequences of ", context.length);
  const Var z = logits(x, context);  // (N, E)
  const Choice choice = choose(z, context);
  const Var score = ops::take(choice.score, choice.expert);  // (N, k)
  const Tensor kept = keep(choice, score.value(), context);  // (N, k) or undefined
  const Device device = x.value().device();
  Routing r;
  r.expert = choice.expert;
  r.row = Tensor(choice.expert.shape(), DType::i32, device);
  r.offsets = Tensor({experts_ + 1}, DType::i32, device);
  r.load = Tensor({experts_}, DType::i32, device);
  kernels::assign_rows(choice.expert, kept, r.row, r.offsets, r.load);
  r.weight = kept.defined() || renormalize_ ? ops::keep_weights(score, r.row, renormalize_) : score;
  if (context.training) {
    add_balance_losses(balance_, z, choice, group_rows(group_, context), r);
  }
  return r;
}

// Jitter touches what the gate sees, never what the experts see.
Var Router::logits(const Var& x, const nn::Context& context) const {
  const DType wide = weight_.dtype();
  Var in = x.dtype() == wide ? x : ops::cast(x, wide);
  if (context.training && noise_ == Noise::jitter) {
    in = ops::jitter(in, jitter_, context.key(RngPurpose::gate_jitter), context.first_token());
  }
  return ops::linear(in, weight_, Var());
}

Choice Router::choose(const Var& logits, const nn::Context& context) const {
  Tensor noisy = logits.value();
  if (context.training && noise_ == Noise::rsample) {
    noisy = empty_like(noisy);
    kernels::add_gumbel(logits.value(), context.key(RngPurpose::gate_rsample),
                        context.first_token(), noisy);
  }
  Choice choice = gate_->choose({logits, noisy, bias_.value(), top_k_});
  if (force_balance_) kernels::round_robin(context.first_token(), experts_, choice.expert);
  return choice;
}

// Who keeps a place; undefined = everybody.
Tensor Router::keep(const Choice& choice, const Tensor& weight, const nn::Context& context) const {
  if (!context.training || capacity_factor_ <= 0) return {};
  const int64_t rows = group_rows(group_, context);
  const int64_t capacity = expert_capacity(rows, experts_, top_k_, capacity_factor_, min_capacity_);
  if (capacity >= rows) return {};
  Tensor kept(choice.expert.shape(), DType::u8, choice.expert.device());
  kernels::keep_within_capacity(choice.expert, weight, experts_, rows, capacity, drop_by_,
                                context.key(RngPurpose::token_selection), context.first_token(),
                                kept);
  return kept;
}

void Router::update_bias(const Tensor& load) const {
  PM_CHECK(has_bias(), "Router: this gate has no balancing bias");
  Tensor bias = bias_.value();
  kernels::balance_bias_step(load.to(DType::i64).to(bias.device()), bias_rate_, bias);
}

}  // namespace pyramoe::moe
