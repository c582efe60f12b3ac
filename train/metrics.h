// What a run writes about itself: metrics.jsonl (one JSON object a line), metrics.csv and a
// TensorBoard event file.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dist/traffic.h"
#include "train/evaluate.h"
#include "train/tensorboard.h"

namespace pyramoe::train {

// Two slots of one block became one, and one expert two (train/expert_moves.h). Slots count from 0
// in their block.
struct ExpertMove {
  int64_t merged_block = 0, kept = 0, freed = 0;
  int64_t split_block = 0, split = 0, born = 0;
  double cost = 0, importance = 0;  // of the merge; of the expert that was split
};

// One optimizer step, as the trainer saw it. Losses are means over tokens, in nats.
struct StepResult {
  int64_t step = 0;    // steps done, this one included
  int64_t tokens = 0;  // tokens seen, this step's included
  double loss = 0;     // the objective without the side losses: cross-entropy
  double balance_loss = 0, z_loss = 0, distill_loss = 0;  // before their coefficients
  double grad_norm = 0, learning_rate = 0, distill_weight = 0;
  double seconds = 0;
  int64_t step_tokens = 0;
  bool skipped = false;
  // distill.schedule = "auto": the cosine, where it was looked at, and the step that stopped.
  double distill_cosine = std::numeric_limits<double>::quiet_NaN();
  int64_t distill_stopped = -1;
  // Of all layers of experts: share of choices dropped, and the busiest expert's load over the
  // mean, averaged over layers.
  double dropped = 0, imbalance = 0;
  std::vector<std::vector<int64_t>> load;           // per layer of experts, summed over the step
  std::vector<int64_t> live;                        // per block, with moe.budget: its experts
  std::vector<ExpertMove> moves;                    // before the step
  std::vector<int64_t> kept;                        // per layer of experts: choices not dropped
  std::map<std::string, dist::TrafficRow> traffic;  // what this rank sent and waited for
};

class Metrics {
 public:
  // Opens (or continues) the files of a run folder; rows of steps after `step` are cut off. A run
  // that has `ended` at `step` validates once more, so that row is cut off too.
  Metrics(const std::string& run_dir, int64_t step, bool ended);
  void write(const StepResult& result, bool with_load);
  void write(const EvalResult& result, int64_t step, int64_t tokens);
  // Of the last step before those to come: what its row says was dropped, and the imbalance.
  const StepResult& step_before() const { return before_; }
  // Whether that step's validation has its row.
  bool validated_before() const { return validated_; }

 private:
  AppendLog json_, csv_;
  StepResult before_;
  bool validated_ = false;
  EventFile events_;
};

}  // namespace pyramoe::train
