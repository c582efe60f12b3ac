#include "moe/router.h"

#include <algorithm>

#include "autograd/ops.h"
#include "core/kernels/elementwise.h"
#include "dist/collective_ops.h"

namespace pyramoe::moe {
namespace {

constexpr double kEmpty = -1e30;  // exp of it, less any logit, is 0

}  // namespace

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
      softmax_gate_(config.gate == "softmax"),
      balance_{config.balance_loss == "all", config.z_coef > 0} {
  PM_CHECK(top_k_ >= 1 && top_k_ <= experts_, "Router: ", top_k_, " choices among ", experts_,
           " experts");
  nn::Build wide = build;
  if (wide.dtype == DType::bf16) wide.dtype = DType::f32;
  nn::Placement place = build.everywhere();
  if (build.mesh && build.mesh->config().dispatcher == "coordinated") {
    slice_ = build.tensor();
    place.sync = build.mesh->world();  // tensor ranks see different tokens
  }
  weight_ = add_parameter("weight", {experts_, config.dim}, wide, nn::Init::normal(config.init_std),
                          true, place);
  if (config.budget > 0) {
    mask_ = add_buffer("mask", Tensor::zeros({experts_}, wide.dtype, build.device));
    for (int64_t slot = plan.live; slot < experts_; ++slot) set_live(slot, false);
  }
  if (gate_->has_bias()) {
    bias_ = add_buffer("balance_bias", Tensor::zeros({experts_}, wide.dtype, build.device));
  }
}

Routing Router::route(const Var& x, const nn::Context& context) const {
  const bool whole = x.dim(0) == context.batch * context.length;
  const dist::ProcessGroup slice = whole ? dist::ProcessGroup() : slice_;
  PM_CHECK(x.dim(0) * slice.size() == context.batch * context.length, "Router: ", x.dim(0),
           " tokens of ", slice.size(), " ranks, but ", context.batch, " sequences of ",
           context.length);
  Routing r;
  Var score =
      fuses(x, slice, context) ? score_fused(x, context, r) : score_plain(x, slice, context, r);
  const int64_t rows = context.training ? group_rows(group_, context) : 0;
  const int64_t capacity = places(rows, context);
  const Device device = x.value().device();
  // One sort decides and orders where it can; else who stays is decided over all tokens first.
  const bool sorts =
      slice.size() == 1 && capacity > 0 && top_k_ == 1 && drop_by_ == kernels::DropBy::position;
  Tensor kept;
  if (!sorts) kept = keep(r.expert, score.value(), rows, capacity, context);
  if (capacity > 0) r.block_rows = x.dim(0) * slice.size() / rows * capacity;
  if (slice.size() > 1) {  // from here on this rank's tokens alone
    const int64_t begin = slice.rank() * x.dim(0), end = begin + x.dim(0);
    score = dist::slice_to(score, slice, 0);
    r.expert = r.expert.rows(begin, end);
    if (r.probability.defined()) r.probability = r.probability.rows(begin, end);
    if (kept.defined()) kept = kept.rows(begin, end);
  }
  r.row = Tensor(r.expert.shape(), DType::i32, device);
  r.offsets = Tensor({experts_ + 1}, DType::i32, device);
  r.load = Tensor({experts_}, DType::i32, device);
  if (sorts) {
    kernels::assign_rows_by_position(r.expert, rows, capacity, r.row, r.offsets, r.load);
  } else {
    kernels::assign_rows(r.expert, kept, r.row, r.offsets, r.load);
  }
  r.weight = capacity > 0 || renormalize_ ? ops::keep_weights(score, r.row, renormalize_) : score;
  return r;
}

// The fused op knows one gate, no noise and keeps no probabilities; it pays on a GPU, where each
// small kernel is a launch.
bool Router::fuses(const Var& x, const dist::ProcessGroup& slice,
                   const nn::Context& context) const {
  const bool noisy = context.training && noise_ != Noise::none;
  return fused_ && !mask_.defined() && slice.size() == 1 && softmax_gate_ && !noisy &&
         !force_balance_ && !context.keep_probabilities && x.dim(0) > 0 &&
         x.value().device().type == DeviceType::cuda && weight_.dtype() == DType::f32;
}

Var Router::score_fused(const Var& x, const nn::Context& context, Routing& r) const {
  const int64_t rows = context.training ? group_rows(group_, context) : 0;
  const Vars y = ops::router(
      x, weight_, {top_k_, rows, balance_.all_choices, context.training && balance_.z_loss},
      &r.expert);
  r.x = y[0];
  r.balance_loss = y[2];
  r.z_loss = y[3];
  return y[1];
}

// Op by op: any gate, any noise, any device; what the fused op is checked against.
Var Router::score_plain(const Var& x, const dist::ProcessGroup& slice, const nn::Context& context,
                        Routing& r) const {
  const Var z = dist::gather_from(logits(x, slice, context), slice, 0);  // (N, E), of all tokens
  const Choice choice = choose(z, context);
  r.x = x;
  r.expert = choice.expert;
  if (context.keep_probabilities) r.probability = choice.probability.value();
  if (context.training) {
    add_balance_losses(balance_, z, choice, group_rows(group_, context), r);
    if (mask_.defined()) {  // 1 when routing is uniform over the live experts
      const double share = static_cast<double>(live_count()) / static_cast<double>(experts_);
      r.balance_loss = ops::scale(r.balance_loss, share);
    }
  }
  return ops::take(choice.score, choice.expert);  // (N, k)
}

// Jitter touches what the gate sees, never what the experts see.
Var Router::logits(const Var& x, const dist::ProcessGroup& slice,
                   const nn::Context& context) const {
  const DType wide = weight_.dtype();
  Var in = x.dtype() == wide ? x : ops::cast(x, wide);
  if (context.training && noise_ == Noise::jitter) {
    in = ops::jitter(in, jitter_, context.key(RngPurpose::gate_jitter),
                     context.first_token() + slice.rank() * x.dim(0));
  }
  return ops::linear(in, weight_, mask_);
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

// Places an expert has for the tokens of a group; 0 = for all of them.
int64_t Router::places(int64_t rows, const nn::Context& context) const {
  if (!context.training || capacity_factor_ <= 0) return 0;
  const int64_t capacity =
      expert_capacity(rows, live_count(), top_k_, capacity_factor_, min_capacity_);
  return capacity < rows ? capacity : 0;
}

// Who keeps a place; undefined = everybody.
Tensor Router::keep(const Tensor& expert, const Tensor& weight, int64_t rows, int64_t capacity,
                    const nn::Context& context) const {
  if (capacity == 0) return {};
  Tensor kept(expert.shape(), DType::u8, expert.device());
  kernels::keep_within_capacity(expert, weight, experts_, rows, capacity, drop_by_,
                                context.key(RngPurpose::token_selection), context.first_token(),
                                kept);
  return kept;
}

std::vector<bool> Router::live() const {
  std::vector<bool> live(static_cast<size_t>(experts_), true);
  if (!mask_.defined()) return live;
  const std::vector<double> mask = mask_.value().to_vector();
  for (size_t e = 0; e < live.size(); ++e) live[e] = mask[e] == 0;
  return live;
}

int64_t Router::live_count() const {
  if (!mask_.defined()) return experts_;
  if (live_count_ < 0) {
    const std::vector<bool> all = live();
    live_count_ = std::count(all.begin(), all.end(), true);
  }
  return live_count_;
}

void Router::set_live(int64_t slot, bool live) const {
  PM_CHECK(mask_.defined(), "Router: without moe.budget every slot has an expert");
  Tensor place = mask_.value().rows(slot, slot + 1);
  kernels::fill(live ? 0.0 : kEmpty, place);
  live_count_ = -1;
}

void Router::update_bias(const Tensor& load) const {
  PM_CHECK(has_bias(), "Router: this gate has no balancing bias");
  Tensor bias = bias_.value();
  kernels::balance_bias_step(load.to(DType::i64).to(bias.device()), bias_rate_, bias);
}

}  // namespace pyramoe::moe
