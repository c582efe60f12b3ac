// What a step uses as a function of its number alone: batch, tokens seen, learning rate. So a
// resumed run continues as if it had never stopped.
#pragma once

#include <cstdint>

#include "train/run_config.h"

namespace pyramoe::train {

struct StepPlan {
  int64_t batch = 0;           // sequences in this step
  int64_t first_sequence = 0;  // sequences before it
  int64_t tokens_before = 0, tokens_after = 0;
};

class Schedule {
 public:
  explicit Schedule(const RunConfig& config);

  // The plan of step 0, 1, …  Steps are planned in order once; asking again is cheap.
  StepPlan plan(int64_t step) const;
  int64_t total_tokens() const { return total_tokens_; }
  // Linear warm-up over warmup_tokens (at the end of a step), then the decay to min_lr, both by
  // tokens (the recipes of the paper count tokens).
  double learning_rate(const StepPlan& plan) const;
  // Share of the run's tokens seen before the step.
  double progress(const StepPlan& plan) const;

 private:
  int64_t batch_at(int64_t tokens) const;

  TrainConfig train_;
  int64_t context_;
  int64_t micro_;
  int64_t ramp_steps_ = 0;      // steps before the batch is constant
  int64_t ramp_sequences_ = 0;  // sequences in them
  std::vector<int64_t> ramp_;   // batch of each of those steps
  int64_t total_tokens_ = 0;
};

}  // namespace pyramoe::train
