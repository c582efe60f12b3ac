// Mixture-of-Students: how much the teacher counts, over a run (DeepSpeed-MoE, section 4.2).
//
// Staged distillation stops at a share of the tokens, because late in training the student's own
// loss is the better guide. The share is of tokens, never of steps (the paper's step number fits
// only one of its batch sizes).
#pragma once

#include <string>

namespace pyramoe::moe {

// Weight of the distillation loss at `progress` = tokens seen / tokens planned, in [0, 1].
//   schedule  full, staged, linear, cosine, or auto (1 until a rule ends it: train/auto_stop.h)
//   stop_at   share at which it has ended (ignored by full and auto)
double distill_weight(const std::string& schedule, double stop_at, double progress);

}  // namespace pyramoe::moe
