// What there is to do for a list of planned runs, and what next. Equal runs are one unit. A unit
// goes through stages (train or evaluate, then zero-shot tasks, at last the bench); what a stage
// made lies in the run folder, so whatever ends the program, the next one reads there how far each
// unit is.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lab/plan.h"
#include "lab/results.h"

namespace pyramoe::lab {

enum class Stage { train, evaluate, tasks, done };

struct Unit {
  PlannedRun run;     // of the experiment that asked first
  std::string tasks;  // wanted by any
  int64_t task_limit = 0;
  bool bench = false;
  std::vector<size_t> needs, users;  // units
  double cost = 0;  // FLOPs to go, with the longest chain of users: long chains go first

  bool running = false;
  bool trained = false;  // its training or evaluation is done and its result written
  bool tasks_done = true, bench_done = true;
  bool again = false;      // has a result, and trains again for its weights
  int failed = 0;          // status of the stage that failed
  std::string blocked_by;  // arm and seed of a unit that failed and that this one needs
};

class Queue {
 public:
  // Looks into the run folders for what is there already. Throws Error(config) where two
  // experiments want different things of one run.
  Queue(const std::vector<PlannedRun>& runs, bool keep_weights);

  std::vector<Unit>& units() { return units_; }
  const std::vector<Unit>& units() const { return units_; }

  static Stage stage_of(const Unit& unit);
  // The unit to start now: its needs are trained; seed by seed, long chains first. Trainings of
  // more than so many FLOPs are passed over.
  std::optional<size_t> next(double most_flops = HUGE_VAL) const;
  // Marks all that needs this unit, directly or not.
  void block_users(size_t index);
  // Whether its weights are to be kept: someone will still read them, or --keep-weights.
  bool weights_needed(size_t index) const;
  // Those not running whose weights nobody needs any more lose them.
  void drop_weights() const;

  int64_t count_done() const;  // all but the bench

 private:
  void add(const PlannedRun& run);
  void link();
  void inspect(size_t index, std::vector<bool>& seen);
  double chain(size_t index) const;
  bool weights_read(size_t index) const;

  std::vector<Unit> units_;
  bool keep_weights_;
};

// "pr_moe, seed 2"
std::string name_of(const PlannedRun& run);
// Whether the folder holds the weights after the last step.
bool has_weights(const PlannedRun& run);

}  // namespace pyramoe::lab
