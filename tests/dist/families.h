// Small models of the five families and ways to lay them out: what the equality tests go through.
#pragma once

#include <string>
#include <vector>

#include "tests/train/support.h"
#include "train/layout.h"
#include "train/trainer.h"

namespace pyramoe::test {

// dense, top1 (capacity, drops), top2 (dropless), pr_moe (pyramid with residual MLP), mos (student
// of a teacher run in `teacher`). In f64, 4 heads, experts that divide among 8 ranks in many ways.
inline train::RunConfig family_config(const std::string& family, const std::string& teacher) {
  train::RunConfig config;
  config.data.synthetic = true;
  config.model.layers = 2;
  config.model.dim = 16;
  config.model.heads = 4;
  config.model.context = 8;
  config.model.vocab = 64;
  config.model.hidden = 32;
  config.model.expert_hidden = 32;
  config.model.dropout = 0.1;
  config.model.init_std = 0.3;  // far from symmetric: routing has clear winners
  config.train.batch = 16;
  config.train.steps = 20;
  config.train.lr = 0.01;
  config.train.min_lr = 0.001;
  config.train.dtype = "f64";
  if (family == "top1") {
    config.model.experts = "0 8";
    config.model.capacity_factor = 1.0;
    config.model.min_capacity = 1;
    config.model.noise = "jitter";
    config.model.z_coef = 0.001;
  } else if (family == "top2") {
    config.model.experts = "8";
    config.model.top_k = 2;
    config.model.renormalize = true;
    config.model.noise = "rsample";
  } else if (family == "pr_moe") {
    config.model.experts = "4 8";
    config.model.residual = true;
    config.model.residual_mix = "learned";
    config.model.gate = "sigmoid_bias";
  } else if (family == "mos") {
    config.model.experts = "0 4";
    config.model.residual = true;
    config.distill.teacher = teacher;
    config.distill.schedule = "full";
  }
  return config;
}

inline const std::vector<std::string>& families() {
  static const std::vector<std::string> all{"dense", "top1", "top2", "pr_moe", "mos"};
  return all;
}

// Everything a first step computed, by global names, and what 20 steps lead to. On rank 0.
struct Trace {
  std::map<std::string, Tensor> first;  // loss, aux, norm, every gradient before clipping
  std::map<std::string, Tensor> last;   // loss and parameters at the end
};

Trace trace_of(train::RunConfig config, const dist::ProcessGroup& world, int64_t steps);

// The name of the worst tensor and its error where the traces differ by more than the tolerances
// (absolute and relative), else "".
std::string difference(const Trace& got, const Trace& want, double first, double last);

}  // namespace pyramoe::test
