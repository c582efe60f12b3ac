// Loss over a validation set, overall and per domain, and which experts each domain uses.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "data/batches.h"
#include "dist/process_group.h"
#include "nn/gpt.h"

namespace pyramoe::train {

struct DomainResult {
  double loss = 0;  // mean over its tokens, in nats
  int64_t tokens = 0;
  std::vector<std::vector<int64_t>> load;  // choices per expert, for each layer of experts
};

struct EvalResult {
  double loss = 0;  // mean over all tokens, in nats
  int64_t tokens = 0;
  std::map<std::string, DomainResult> domains;
  std::vector<int64_t> moe_layers;  // block of each layer of experts
};

// Every window of the set. Tokens are never dropped and nothing is random, so losses do not depend
// on how windows are batched or who computes them. Returns early, with what it has, when a stop is
// requested.
//   data  ranks that share the windows; the result is the same on all
EvalResult evaluate(nn::Gpt& model, const data::ValidationSet& set,
                    const std::vector<std::string>& domains, Device device,
                    const dist::ProcessGroup& data = {}, const std::function<bool()>& stop = {});

// One JSON object, as eval.json holds it: step, tokens, loss, per domain the loss, tokens and load,
// the blocks of the layers of experts, `dropped` and `imbalance` of the last training step, and
// `more` numbers under their own names.
std::string eval_json(const EvalResult& result, int64_t step, int64_t tokens, double dropped,
                      double imbalance, const std::map<std::string, double>& more = {});

}  // namespace pyramoe::train
