// train.dump: everything that the first step computed, by global names, in one safetensors file.
// Dumps of two programs or two layouts can be compared file to file.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "nn/gpt.h"
#include "train/flat_buffers.h"
#include "train/metrics.h"

namespace pyramoe::train {

class StepDump {
 public:
  // Of each micro-batch, in order; of many ranks each gives its part.
  void add_logits(const Tensor& logits, const dist::Mesh* mesh);
  void add_gradients(FlatBuffers& buffers, const dist::ProcessGroup& world);  // before clipping
  // Writes folder/step.safetensors: loss, balance_loss, distill_loss, grad_norm (1) f64; logits
  // (batch * context, V); grad.NAME; param.NAME after the update.
  //   blocks  ranks that each have neighbouring rows of the batch; 1: each pass has, over all ranks
  void write(const StepResult& result, nn::Gpt& model, const std::string& folder,
             const dist::ProcessGroup& world, int64_t blocks);

 private:
  Tensor whole_logits(int64_t blocks) const;

  Tensors logits_;
  std::vector<std::pair<std::string, Tensor>> items_;
};

}  // namespace pyramoe::train
