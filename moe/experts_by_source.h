// The experts' MLP where the gradients of its weights are kept apart by the rank that sent the
// rows: for sums whose order must not depend on where experts lie (train/layout_sum.h).
#pragma once

#include "moe/routing.h"

namespace pyramoe::moe {

// (E, F, D), (E, F), (E, D, F), (E, D); biases may be undefined.
struct ExpertWeights {
  Var up, up_bias, down, down_bias;
};
// The same with axis 0 counting (expert, rank).
struct SourceGrads {
  Tensor up, up_bias, down, down_bias;
};

// ops::grouped_mlp, but backward overwrites `grads` and gives the weights themselves nothing.
// Rows of `in` lie by (expert, rank, token), `in.by_source` says where each run begins.
Segments mlp_by_source(const Segments& in, const ExpertWeights& weights, const SourceGrads& grads);

}  // namespace pyramoe::moe
