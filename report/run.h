// What a run folder says about a finished or running training: its config, its metrics, its last
// validation. Read only; a run may be training while it is read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moe/model_cost.h"
#include "train/run_config.h"

namespace pyramoe::report {

struct LossPoint {
  double tokens = 0;
  double loss = 0;  // NaN where the run wrote null
};

struct DomainLoss {
  std::string name;
  double loss = 0;
  int64_t tokens = 0;                      // of the validation set
  std::vector<std::vector<int64_t>> load;  // choices per expert, for each layer of experts
};

// Numbers that a run does not have (yet) are NaN; counts are -1.
struct RunReport {
  std::string name, folder;
  train::RunConfig config;
  moe::ModelCost cost;
  std::vector<LossPoint> training, validation;
  int64_t step = 0, tokens = 0;
  double seconds = 0;        // of training steps
  double tokens_per_s = 0;   // median
  double dropped = 0;        // share of choices, mean of the last tenth of the steps
  double imbalance = 0;      // busiest expert over the mean: of validation, else as dropped
  double loss = 0;           // validation, nats per token
  int64_t loss_tokens = -1;  // of the validation set
  std::vector<DomainLoss> domains;
  std::vector<int64_t> moe_layers;  // block of each layer of experts
};

// Reads config.toml and metrics.jsonl, and eval.json where there is one. A last line of metrics
// that is still being written is left out. Throws Error(data) that names file and line, and
// Error(checkpoint) if the folder or one of the two files is missing.
RunReport read_run(const std::string& folder);

// Gives runs of equal names their folders as names.
void tell_apart(std::vector<RunReport>& runs);

}  // namespace pyramoe::report
