// Staged distillation that finds its own end: stop when the teacher pulls the student away from
// where the data pulls it.
//
// Near the minimum of CE + beta KD the two gradients cancel: whatever CE would still gain, KD takes
// back. So the cosine between them, on fresh data, tells when the teacher has given what it has. It
// takes the CE gradient of one batch and the KD gradient of another: noise of a shared batch would
// make the two look alike. DeepSpeed-MoE, section 4.2, stops at a hand-picked step instead.
#pragma once

#include <vector>

#include "core/json.h"
#include "train/run_config.h"

namespace pyramoe::train {

class AutoStop {
 public:
  // Without distill.schedule = "auto" it never asks for a check and never stops.
  explicit AutoStop(const DistillConfig& config);

  // Whether the cosine is wanted before this step. The first step has no gradients to speak of.
  bool due(int64_t step) const;
  // The cosine that was found before `step`. One that is not finite counts for nothing.
  void add(int64_t step, double cosine);
  // The number of steps that had a teacher; -1 while it still counts.
  int64_t stopped() const { return stopped_; }
  double last_cosine() const { return cosines_.empty() ? 0 : cosines_.back(); }

  // For state.json: all of it, to the bit.
  Json state() const;
  // Takes over a state; throws Error(checkpoint) when it does not fit.
  void put_state(const Json& state, const std::string& where);

 private:
  bool active_;
  int64_t every_, window_;
  double threshold_;
  int64_t checked_ = 0;  // the step of the last check
  int64_t stopped_ = -1;
  std::vector<double> cosines_;  // of the last checks, at most window_
};

}  // namespace pyramoe::train
