#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pyramoe::train {

Schedule::Schedule(const RunConfig& config)
    : train_(config.train), context_(config.model.context), micro_(config.micro_batch()) {
  if (train_.ramp_start > 0 && train_.ramp_start < train_.batch) {
    while (ramp_steps_ < train_.steps) {
      const int64_t batch = batch_at(ramp_sequences_ * context_);
      if (batch >= train_.batch) break;
      ramp_.push_back(batch);
      ramp_sequences_ += batch;
      ++ramp_steps_;
    }
  }
  total_tokens_ = (ramp_sequences_ + (train_.steps - ramp_steps_) * train_.batch) * context_;
}

// The batch grows in steps of ramp_start, evenly over ramp_tokens.
int64_t Schedule::batch_at(int64_t tokens) const {
  const int64_t increments = train_.batch / train_.ramp_start;
  const double share = train_.ramp_tokens > 0
                           ? static_cast<double>(tokens) / static_cast<double>(train_.ramp_tokens)
                           : 1.0;
  const auto done = static_cast<int64_t>(share * static_cast<double>(increments));
  return std::min(train_.batch, train_.ramp_start * (1 + done));
}

StepPlan Schedule::plan(int64_t step) const {
  StepPlan plan;
  if (step < ramp_steps_) {
    for (int64_t i = 0; i < step; ++i) plan.first_sequence += ramp_[static_cast<size_t>(i)];
    plan.batch = ramp_[static_cast<size_t>(step)];
  } else {
    plan.first_sequence = ramp_sequences_ + (step - ramp_steps_) * train_.batch;
    plan.batch = train_.batch;
  }
  plan.tokens_before = plan.first_sequence * context_;
  plan.tokens_after = (plan.first_sequence + plan.batch) * context_;
  return plan;
}

double Schedule::learning_rate(const StepPlan& plan) const {
  const auto warm = static_cast<double>(train_.warmup_tokens);
  const auto after = static_cast<double>(plan.tokens_after);
  if (after < warm) return train_.lr * after / warm;
  if (train_.schedule == "constant") return train_.lr;
  const auto end =
      static_cast<double>(train_.decay_tokens > 0 ? train_.decay_tokens : total_tokens_);
  if (after >= end) return train_.min_lr;
  const double share = (after - warm) / (end - warm);
  const double height =
      train_.schedule == "linear" ? 1 - share : 0.5 * (1 + std::cos(std::numbers::pi * share));
  return train_.min_lr + (train_.lr - train_.min_lr) * height;
}

double Schedule::progress(const StepPlan& plan) const {
  return total_tokens_ > 0
             ? static_cast<double>(plan.tokens_before) / static_cast<double>(total_tokens_)
             : 1.0;
}

}  // namespace pyramoe::train
