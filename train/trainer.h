// One optimizer step from tokens to updated weights, and the state that survives a stop.
// train/run.h repeats it and validates, samples, saves and reports on the way.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "infer/run.h"
#include "train/evaluate.h"
#include "train/flat_buffers.h"
#include "train/metrics.h"
#include "train/open_data.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/step_dump.h"

namespace pyramoe::train {

class Trainer {
 public:
  // Builds data, model and optimizer. Nothing is read from or written to the run folder.
  Trainer(const RunConfig& config, Device device);

  // One optimizer step. When a stop was requested (train/signals.h) it returns early and has
  // changed nothing. Throws Error(non_finite) when train.max_skips is exceeded.
  StepResult step();
  // The same on a batch of the caller's: train.batch rows or any multiple of train.micro_batch.
  StepResult step_on(const data::Batch& batch);
  EvalResult evaluate();

  // Writes a checkpoint of the current state and returns its folder.
  std::string save();
  // Takes over weights, moments and counters. Throws Error when the checkpoint is of another model,
  // optimizer or batch.
  void resume(const nn::Checkpoint& checkpoint);

  int64_t steps_done() const { return step_; }
  int64_t tokens_seen() const { return step_ > 0 ? schedule_.plan(step_ - 1).tokens_after : 0; }
  const RunConfig& config() const { return config_; }
  nn::Gpt& model() { return *model_; }
  FlatBuffers& buffers() { return *buffers_; }
  Optimizer& optimizer() { return *optimizer_; }
  const data::Tokenizer* tokenizer() const { return data_.tokenizer.get(); }
  // Lines to print before training: where a student's layers come from.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  struct Objective {
    Var total;
    Tensor cross_entropy, distill;  // distill undefined when it does not count
    Tensors balance, z;             // one per layer of experts
  };
  void start_weights();
  // Forward and backward of the micro-batch that starts at `row`; adds its share of the losses.
  void micro_step(const data::Batch& batch, int64_t row, StepResult& result,
                  std::vector<nn::LayerStat>& stats);
  Objective loss(const nn::GptOut& out, const Tensor& tokens, const Tensor& targets,
                 double distill) const;
  // Clips, guards and updates.
  void update(StepResult& result, const std::vector<nn::LayerStat>& stats);
  bool dumping() const { return step_ == 0 && dump_ != nullptr; }

  RunConfig config_;
  Device device_;
  Schedule schedule_;
  OpenData data_;
  std::unique_ptr<nn::Gpt> model_, teacher_;
  std::unique_ptr<FlatBuffers> buffers_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<StepDump> dump_;
  StepScalars scalars_;
  int64_t step_ = 0;  // optimizer steps taken, skipped ones included
  int64_t skips_in_row_ = 0;
  std::vector<std::string> notes_;
};

}  // namespace pyramoe::train
