// How decided the routers are: a look at what they give to each expert, for a few validation
// tokens.
//
// Training keeps only who was chosen. The probabilities behind it cost a forward pass of their own,
// so it is small (512 tokens, of which 256 are read by the host) and always of the same tokens:
// what changes between two probes is the model.
#pragma once

#include <vector>

#include "data/batches.h"
#include "nn/gpt.h"

namespace pyramoe::train {

// One number a layer of experts, means over the tokens of the probe; empty where there are none.
struct RouterProbe {
  std::vector<double> entropy;  // of a token's probabilities, over log E: 0 = sure, 1 = no idea
  std::vector<double> top;      // the largest probability
};

// Windows of a probe, and how many steps must lie between two so that they take well under a
// hundredth of the training time. `batch` is sequences of this rank in a step.
int64_t probe_windows(int64_t context);
int64_t probe_interval(int64_t record_every, int64_t context, int64_t batch);

// All ranks call it together; where tensor ranks share the tokens each sees its part.
RouterProbe probe_router(nn::Gpt& model, const data::ValidationSet& set, Device device);

// Entropy of one token's probabilities over log E; 0 for one expert.
double relative_entropy(const double* probability, int64_t experts);

}  // namespace pyramoe::train
