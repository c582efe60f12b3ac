// AdamW and SGD over flat buffers, with f32 master weights where the model computes in bf16.
//
// With ZeRO (parallel.zero) a rank keeps moments and master weights of its own range of each flat
// buffer alone, updates that range, and the ranks then gather the weights.
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
  // Moments and master weights, this rank's part of one logical tensor per parameter: "m.<name>",
  // "v.<name>", "master.<name>". Collective with ZeRO.
  virtual std::vector<nn::NamedTensor> state() = 0;
  // Takes over a state whose tensors were overwritten (a checkpoint was loaded into them).
  virtual void put_state(const std::vector<nn::NamedTensor>& state) = 0;

  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }
  void count_update() { ++updates_; }  // the host has seen that a step was not skipped

 protected:
  int64_t updates_ = 0;  // steps that were not skipped
};

//   zero  parallel.zero
std::unique_ptr<Optimizer> make_optimizer(FlatBuffers& buffers, const TrainConfig& config,
                                          int64_t zero = 0);

}  // namespace pyramoe::train
