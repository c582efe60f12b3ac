// Experiments with results that nobody measured, for tests of tables, verdicts and figures: losses
// fall as a power of the tokens, with differences between arms and noise between seeds.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "lab/experiment_table.h"

namespace pyramoe::lab {

struct MadeUpArm {
  std::string name, label;
  double better = 0;  // nats at the end
  double size = 1e6, active = 1e6;
};

// The same number for the same arguments, in (-1, 1).
inline double made_up_noise(int64_t seed, int64_t step, int64_t arm) {
  return std::sin(12.9898 * static_cast<double>(seed) + 78.233 * static_cast<double>(step) +
                  5.173 * static_cast<double>(arm));
}

inline RunResult made_up_run(const MadeUpArm& arm, int64_t number, int64_t seed) {
  RunResult run;
  run.arm = arm.name;
  run.scale = "cpu";
  run.seed = seed;
  run.config_hash = "0123456789abcdef";
  run.commit = "abcdef123456";
  run.device = "cpu";
  run.config = "model.layers = 8\n";
  for (int64_t i = 1; i <= 20; ++i) {
    const double share = static_cast<double>(i) / 20;
    const double loss = 3.2 + 1.9 * std::pow(share * 20, -0.5) + 0.03 * made_up_noise(seed, 0, 0) -
                        arm.better * std::sqrt(share) +
                        0.012 * made_up_noise(seed * seed, i, number) / std::sqrt(share);
    run.validation.emplace_back(1e6 * share, loss);
    run.training.emplace_back(1e6 * share, loss + 0.02);
  }
  const double loss = run.validation.back().second;
  run.metrics = {{"loss", loss},
                 {"perplexity", std::exp(loss)},
                 {"params_total", arm.size},
                 {"params_active", arm.active},
                 {"tokens", 1e6},
                 {"seconds", 100.0 + static_cast<double>(seed)},
                 {"tokens_per_s", 1e10 / arm.active * (1 + 0.02 * made_up_noise(seed, 1, number))},
                 {"dropped", 0.02 + 0.01 * made_up_noise(seed, 2, number)}};
  return run;
}

inline Experiment made_up_experiment(const std::vector<MadeUpArm>& arms, int64_t seeds = 3) {
  Experiment e;
  e.definition.folder = "experiments/made_up";
  e.definition.name = "made_up";
  e.definition.title = "Made up";
  e.definition.question = "Does the report say what the numbers say?";
  e.definition.source = "nobody";
  e.definition.columns = {"params_total", "loss", "tokens_per_s", "dropped"};
  Scale scale;
  scale.name = "cpu";
  scale.words = {{"large", "16"}};
  e.scales["cpu"] = scale;
  int64_t number = 0;
  for (const MadeUpArm& arm : arms) {
    Arm defined;
    defined.name = arm.name;
    defined.label = arm.label;
    e.definition.arms.push_back(defined);
    for (int64_t seed = 1; seed <= seeds; ++seed) {
      add_result(e.results, made_up_run(arm, number, seed));
    }
    ++number;
  }
  return e;
}

inline std::vector<MadeUpArm> pyramid_arms() {
  return {{"moe_small", "MoE-4", 0, 3.4e6, 1.1e6},
          {"moe_large", "MoE-{large}", 0.09, 13.1e6, 1.1e6},
          {"pyramid", "Pyramid-4/8", 0.045, 4.0e6, 1.1e6},
          {"residual", "Residual-4", 0.05, 3.6e6, 1.4e6},
          {"pr_moe", "PR-MoE-4/8", 0.082, 4.1e6, 1.4e6}};
}

inline std::vector<MadeUpArm> gating_arms() {
  return {{"top1", "top-1, capacity 1.25", 0, 13.1e6, 1.1e6},
          {"top2", "top-2, capacity 2", 0.05, 13.1e6, 1.4e6},
          {"top4", "top-4", 0.07, 13.1e6, 2.0e6},
          {"cap1", "top-1, capacity 1.0", -0.012, 13.1e6, 1.1e6},
          {"cap4", "top-1, capacity 4", 0.008, 13.1e6, 1.1e6},
          {"dropless", "top-1, no tokens dropped", 0.01, 13.1e6, 1.1e6},
          {"rts", "random token selection", 0.002, 13.1e6, 1.1e6},
          {"jitter", "noise: jitter", -0.005, 13.1e6, 1.1e6},
          {"rsample", "noise: RSample", -0.02, 13.1e6, 1.1e6},
          {"aux0", "no balance loss", -0.04, 13.1e6, 1.1e6},
          {"aux1", "balance loss, coefficient 0.1", -0.008, 13.1e6, 1.1e6},
          {"bias", "aux-free bias, 0.001 a step", 0.006, 13.1e6, 1.1e6},
          {"zloss", "router z-loss, 0.001", 0.001, 13.1e6, 1.1e6}};
}

}  // namespace pyramoe::lab
