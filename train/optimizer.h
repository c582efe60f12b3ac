// AdamW and SGD over flat buffers, with f32 master weights where the model computes in bf16.
#pragma once

#include "nn/checkpoint.h"
#include "train/flat_buffers.h"
#include "train/run_config.h"
#include "train/step_scalars.h"

namespace pyramoe::train {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Fills in the bias corrections of the next update; lr, clip and skip are the caller's.
  virtual void prepare(StepScalars&) const {}
  // Updates all parameters from the gradients in the flat buffers, unless the skip flag is set on
  // the device. Only kernels: may be captured.
  virtual void step(const Tensor& scalars) = 0;
  // Moments and master weights, one logical tensor per parameter: "m.<name>", "v.<name>",
  // "master.<name>". Views: loading a checkpoint copies into them.
  virtual std::vector<nn::NamedTensor> state() = 0;

  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }
  void count_update() { ++updates_; }  // the host has seen that a step was not skipped

 protected:
  int64_t updates_ = 0;  // steps that were not skipped
};

std::unique_ptr<Optimizer> make_optimizer(FlatBuffers& buffers, const TrainConfig& config);

}  // namespace pyramoe::train
