// What a model costs before anything is allocated: parameters, FLOPs per token, bytes.
#pragma once

#include "core/dtype.h"
#include "moe/layer_plan.h"

namespace pyramoe::moe {

struct LayerCost {
  LayerPlan plan;
  int64_t params = 0;         // all of the block
  int64_t params_active = 0;  // those that one token passes through
  int64_t params_expert = 0;  // in experts
  int64_t params_spare = 0;   // in slots without one; not in params
  int64_t flops_per_token = 0;
};

struct ModelCost {
  std::vector<LayerCost> layers;
  int64_t params_embedding = 0;  // token and position tables
  int64_t params_total = 0, params_active = 0, params_expert = 0, params_dense = 0;
  int64_t params_spare = 0;  // of slots without an expert (moe.budget): memory, but no model
  // Multiply-adds of a forward and backward pass counted as 2 FLOPs each: 6 per active weight of a
  // matrix product (the head included, look-ups not), plus 12 D T / 2 per layer for causal
  // attention at full context.
  int64_t flops_per_token = 0;
  // Weights of the run's dtype, master weights where they are kept apart, gradients and moments.
  int64_t bytes_weights = 0, bytes_training = 0;
};

// dtype: that of weights and activations (train.dtype). Throws Error(config) on overflow.
ModelCost model_cost(const ModelConfig& config, DType dtype);

}  // namespace pyramoe::moe
