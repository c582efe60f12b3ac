// One plan per block: the text of moe.experts expanded and checked. Pure functions; nothing here
// allocates.
#pragma once

#include <vector>

#include "moe/model_config.h"

namespace pyramoe::moe {

enum class FfnKind { dense, moe, residual_moe };
const char* kind_name(FfnKind kind);

struct LayerPlan {
  FfnKind kind = FfnKind::dense;
  int64_t experts = 0;  // slots; 0 for a dense block
  int64_t top_k = 0;
  int64_t degree = 1;  // ranks that share one set of experts
  int64_t live = 0;    // slots that have an expert when training begins; fewer only with moe.budget
  bool operator==(const LayerPlan&) const = default;
};

// Expands "32", "0 4 0 8" or "(0 32)*10 (0 64)*2" to one count per layer; groups nest. A single
// number stands for every layer. Throws Error(config) naming the text and the place.
std::vector<int64_t> expand_experts(const std::string& text, int64_t layers);

// Checks all that fields alone cannot (heads divide dim, top_k <= experts, …) and gives one plan
// per block. Throws Error(config) that names keys, values and the rule.
std::vector<LayerPlan> layer_plan(const ModelConfig& config);

}  // namespace pyramoe::moe
