// The runs that an experiment comes to at a scale: each arm and seed with its whole config, its
// name (a hash of that config) and the runs it waits for. One idea: the hash is the run's identity,
// so equal arms of different experiments are one run, trained once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lab/definition.h"
#include "moe/model_cost.h"
#include "train/run_config.h"

namespace pyramoe::lab {

struct PlanOptions {
  int64_t seeds = 0;                      // 0 = the scale's
  std::vector<std::string> arms = {};     // empty = all; what these need is planned too
  std::string runs = "runs/experiments";  // where run folders lie
  double length = 1;                      // factor on steps, warm-up, decay and eval_every
  Settings set = {};                      // of all arms, last
};

struct PlannedRun {
  std::string experiment, scale, arm, label;  // label with its words filled in
  int64_t seed = 0;
  std::string hash;         // config_hash of the RunResult
  std::string folder;       // RUNS/SCALE/HASH-SEED
  train::RunConfig config;  // run.dir = folder; of an arm that only evaluates: its trained run's
  std::string reuse;        // folder of the run that is evaluated again; empty = this run trains
  std::vector<std::string> eval;   // options of that evaluation
  std::vector<std::string> needs;  // folders of runs whose weights this one reads
  std::string tasks;               // zero-shot tasks wanted of it
  int64_t task_limit = 0;
  std::string eval_data;
  bool bench = false;
  moe::ModelCost cost;
  double tokens = 0;  // of training
  double flops = 0;   // of training, a teacher's forward passes included
};

// Seed by seed, arms in the order of the definition, each once. Throws Error(config) on arms,
// words and keys that do not exist, on settings that `pyramoe train` would refuse, and on circles.
std::vector<PlannedRun> plan_runs(const Definition& definition, const Scale& scale,
                                  const PlanOptions& options = {});

// Text with {words} replaced by what they mean at a scale. `where` names the text in errors.
std::string fill_words(const std::string& text, const Scale& scale, const std::string& where);

// 16 hex digits of what a config computes. Keys at their default do not count, so a new key leaves
// old hashes alone; neither do run.dir, train.seed, and how often something is saved or printed.
// Folders of other runs (distill.teacher, init.*) count by their last part, HASH-SEED, without the
// seed.
std::string config_hash(const train::RunConfig& config);

}  // namespace pyramoe::lab
