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

// A folder that all ranks see, made and removed by rank 0. Collective.
class SharedFolder {
 public:
  SharedFolder();
  ~SharedFolder();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Weights and optimizer state as bytes, by global name. On rank 0; collective.
Bits whole_state(train::Trainer& trainer);

// A teacher run that every rank can read; rank 0 trains it a little. Collective.
class Teacher {
 public:
  Teacher();
  const std::string& path() const { return folder_.path(); }

 private:
  SharedFolder folder_;
};

//   nudge  every weight starts as itself times 1 + nudge or 1 - nudge
Trace trace_of(train::RunConfig config, const dist::ProcessGroup& world, int64_t steps,
               double nudge = 0);

// The name of the worst tensor and its error where the traces differ by more than the tolerances
// (absolute and relative), else "".
std::string difference(const Trace& got, const Trace& want, double first, double last);

// How far two correct first steps may lie apart, by tensor, because they add in different orders.
//
// A sum of n products in any order is the exact sum of products whose factors are changed by at
// most n u each (u: half an ulp; Higham, Accuracy and Stability, 3.1). So the two differ by no more
// than a model whose weights and activations change by 2 n u, with n the longest sum there is; what
// such a change does is measured: weights are nudged at random in f64 and the difference scaled up.
// Terms that cancel (a router with one renormalised choice has no gradient, only its rounding) are
// taken to be as large as the largest gradient of the model.
struct RoundingBound {
  std::map<std::string, double> by_name;
  double worst = 0;  // the largest share of a bound that a difference took
  // The name of the first tensor beyond its bound and its error, else "".
  std::string check(const std::map<std::string, Tensor>& got,
                    const std::map<std::string, Tensor>& want);
};
//   config  of one rank; exact  its trace in f64
RoundingBound rounding_bound(const train::RunConfig& config, const Trace& exact, DType dtype);
// The first tensor whose bits differ, else "".
std::string bit_difference(const Trace& got, const Trace& want);

}  // namespace pyramoe::test
