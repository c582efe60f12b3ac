// From settings to a model: each block's second half is what its plan says. And the two things a
// trainer needs to know about layers of experts.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "moe/moe_layer.h"
#include "nn/gpt.h"

namespace pyramoe::moe {

// The model, with uninitialised parameters (Module::initialise or a checkpoint fills them).
//   recompute  keep each block's input only and run the block again in backward
std::unique_ptr<nn::Gpt> build_model(const ModelConfig& config, const nn::Build& build,
                                     bool recompute);

// One block's second half alone, as its plan says.
std::unique_ptr<nn::FeedForward> build_feed_forward(const ModelConfig& config,
                                                    const LayerPlan& plan, const nn::Build& build);

struct MoeLayerRef {
  int64_t layer;
  MoeLayer* moe;
};
// Layers of experts, first layer first; those inside a ResidualMoe too.
std::vector<MoeLayerRef> moe_layers(nn::Gpt& model);

// Choices per expert over many forward passes: give it the stats of every micro-batch of a step.
// One (E) i64 per layer of experts, in the order of moe_layers, ready to be summed over ranks.
std::vector<Tensor> sum_loads(nn::Gpt& model, std::span<const nn::LayerStat> stats);
// One step of every balancing bias against those loads; layers whose gate has none are left alone.
// Call it once after each optimizer step.
void update_biases(nn::Gpt& model, const std::vector<Tensor>& loads);

}  // namespace pyramoe::moe
