// What came out of an experiment, as kept in experiments/NAME/results.json: every run that was ever
// used, with its whole config, so that tables, verdicts and figures are made from this file alone
// and any run can be made again.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace pyramoe::lab {

using Curve = std::vector<std::pair<double, double>>;  // tokens, loss in nats

struct RunResult {
  std::string arm, scale;  // in a run folder: the arm that trained it first; others may share it
  int64_t seed = 0;
  std::string config_hash;  // 16 hex digits, the same for every seed: config_hash of lab/plan.h
  std::string commit;       // of the program that ran; "+" at the end: with local changes
  std::string device;       // "cpu" or the GPU's name
  std::string config;       // config.toml of the run; empty for an arm that only evaluates
  // loss, loss.DOMAIN, perplexity, params_total, params_active, params_expert, flops_per_token,
  // tokens, seconds, tokens_per_s (median), dropped, imbalance; acc.TASK of zero-shot tasks;
  // bench.tokens_per_s, bench.step_ms, bench.peak_bytes; whatever `pyramoe eval` adds.
  std::map<std::string, double> metrics;
  Curve validation;  // every validation
  Curve training;    // about 60 points, smoothed
};

// The runs of an experiment at all scales, ordered by (scale, arm, seed).
struct Results {
  std::vector<RunResult> runs;
};

// Empty where the file is missing. Throws Error(data) on one that does not fit.
Results read_results(const std::string& path);
// The same results give the same bytes.
std::string results_text(const Results& results);
void write_results(const std::string& path, const Results& results);
// Adds a run, in the place of one with the same scale, arm and seed.
void add_result(Results& results, RunResult run);

// The metric of a run; "loss@0.5" is the validation loss at that share of its tokens, interpolated.
// NaN where the run has none.
double metric_of(const RunResult& run, const std::string& metric);

}  // namespace pyramoe::lab
