// A whole run: resume, train, validate, sample, save, report.
#pragma once

#include "train/run_config.h"
#include "train/trainer.h"

namespace pyramoe::train {

// Trains to train.steps in config.dir, from its newest checkpoint where there is one. Returns the
// last validation.
// Throws Error(preempted) after saving when a signal asked to stop, and the errors of Trainer.
//   mesh  the ranks that train together; null: this one. Rank 0 prints and writes.
EvalResult run_training(const RunConfig& config, Device device, const dist::Mesh* mesh = nullptr);

}  // namespace pyramoe::train
