// Sparse upcycling: an MoE model that starts from a trained dense one (init.from_dense).
#pragma once

#include "nn/gpt.h"

namespace pyramoe::moe {

// Copies the weights of `dense` into `moe`, which must have the same width, depth and vocabulary
// and has been initialised. Whatever both have is copied. Where a block became
//   experts           every expert is the dense MLP; the router keeps its random start. The output
//                     is the dense model's if weights are renormalised and nothing is dropped
//                     (evaluation never drops).
//   MLP and experts   the MLP is the dense one and the experts' down projections are zero, so that
//                     the experts start as a correction of nothing: equal to the dense model
//                     whatever the routing. With the learned mix both shares start at one half and
//                     the MLP's down projection is doubled.
// Throws Error(config) naming the first parameter that does not fit.
// Source: Komatsuzaki et al., 2022 (sparse upcycling).
void upcycle(nn::Gpt& dense, nn::Gpt& moe);

}  // namespace pyramoe::moe
