#include "lab/queue.h"

#include <algorithm>
#include <tuple>

#include "core/file.h"
#include "infer/evaluate.h"
#include "lab/collect.h"
#include "nn/checkpoint.h"

namespace pyramoe::lab {
namespace {

bool tasks_are_done(const Unit& unit, const RunResult& result) {
  if (unit.tasks.empty()) return true;
  const auto limit = result.metrics.find("task_limit");
  if (limit == result.metrics.end() || limit->second != static_cast<double>(unit.task_limit)) {
    return false;
  }
  for (const infer::Task* task : infer::parse_tasks(unit.tasks)) {
    if (result.metrics.count("acc." + task->name) == 0) return false;
  }
  return true;
}

}  // namespace

std::string name_of(const PlannedRun& run) { return cat(run.arm, ", seed ", run.seed); }

bool has_weights(const PlannedRun& run) {
  if (!nn::Checkpoint::exists(run.folder)) return false;
  try {
    return nn::Checkpoint::newest(run.folder).step() == run.config.train.steps;
  } catch (const Error&) {
    return false;
  }
}

Queue::Queue(const std::vector<PlannedRun>& runs, bool keep_weights) : keep_weights_(keep_weights) {
  for (const PlannedRun& run : runs) add(run);
  link();
  std::vector<bool> seen(units_.size(), false);
  for (size_t i = 0; i < units_.size(); ++i) inspect(i, seen);
  for (size_t i = 0; i < units_.size(); ++i) units_[i].cost = chain(i);
}

void Queue::add(const PlannedRun& run) {
  const auto same = std::find_if(units_.begin(), units_.end(),
                                 [&](const Unit& unit) { return unit.run.folder == run.folder; });
  const bool is_new = same == units_.end();
  Unit& unit = is_new ? units_.emplace_back() : *same;
  if (is_new) unit.run = run;
  if (!run.tasks.empty()) {
    if (!unit.tasks.empty() && (unit.tasks != run.tasks || unit.task_limit != run.task_limit)) {
      fail(Exit::config, "arm ", run.arm, " of ", run.experiment, " is the same run as arm ",
           unit.run.arm, " of ", unit.run.experiment,
           ", but they want other tasks or another task_limit of it; run one after the other");
    }
    unit.tasks = run.tasks;
    unit.task_limit = run.task_limit;
  }
  unit.bench |= run.bench;
}

void Queue::link() {
  for (size_t i = 0; i < units_.size(); ++i) {
    for (size_t j = 0; j < units_.size(); ++j) {
      const std::vector<std::string>& needs = units_[i].run.needs;
      if (std::find(needs.begin(), needs.end(), units_[j].run.folder) == needs.end()) continue;
      units_[i].needs.push_back(j);
      units_[j].users.push_back(i);
    }
  }
}

// Users first: only they can say whether this unit's weights are wanted.
void Queue::inspect(size_t index, std::vector<bool>& seen) {
  if (seen[index]) return;
  seen[index] = true;
  for (const size_t user : units_[index].users) inspect(user, seen);
  Unit& unit = units_[index];
  RunResult result;
  unit.trained = read_run_result(unit.run, result);
  unit.tasks_done = tasks_are_done(unit, result);
  unit.bench_done = !unit.bench || result.metrics.count("bench.tokens_per_s") > 0;
  unit.again =
      unit.trained && unit.run.reuse.empty() && weights_read(index) && !has_weights(unit.run);
  if (unit.again) unit.trained = false;
}

double Queue::chain(size_t index) const {
  double longest = 0;
  for (const size_t user : units_[index].users) longest = std::max(longest, chain(user));
  return units_[index].run.flops + longest;
}

Stage Queue::stage_of(const Unit& unit) {
  if (!unit.trained) return unit.run.reuse.empty() ? Stage::train : Stage::evaluate;
  return unit.tasks_done ? Stage::done : Stage::tasks;
}

std::optional<size_t> Queue::next(double most_flops) const {
  std::optional<size_t> best;
  const auto key = [&](size_t i) {
    const Unit& unit = units_[i];
    // What is trained already is finished first: it is short and frees weights.
    return std::make_tuple(stage_of(unit) == Stage::train, unit.run.seed, -unit.cost, i);
  };
  for (size_t i = 0; i < units_.size(); ++i) {
    const Unit& unit = units_[i];
    if (unit.running || unit.failed || !unit.blocked_by.empty()) continue;
    if (stage_of(unit) == Stage::done) continue;
    if (stage_of(unit) == Stage::train && unit.run.flops > most_flops) continue;
    const bool ready = std::all_of(unit.needs.begin(), unit.needs.end(),
                                   [&](size_t need) { return units_[need].trained; });
    if (ready && (!best || key(i) < key(*best))) best = i;
  }
  return best;
}

void Queue::block_users(size_t index) {
  for (const size_t user : units_[index].users) {
    if (units_[user].trained || !units_[user].blocked_by.empty()) continue;
    units_[user].blocked_by = name_of(units_[index].run);
    block_users(user);
  }
}

bool Queue::weights_needed(size_t index) const { return keep_weights_ || weights_read(index); }

bool Queue::weights_read(size_t index) const {
  const Unit& unit = units_[index];
  if (!unit.tasks_done) return true;
  return std::any_of(unit.users.begin(), unit.users.end(), [&](size_t user) {
    return !units_[user].trained || !units_[user].bench_done;
  });
}

void Queue::drop_weights() const {
  for (size_t i = 0; i < units_.size(); ++i) {
    const Unit& unit = units_[i];
    const std::string folder = unit.run.folder + "/checkpoints";
    if (unit.running || !unit.trained || weights_needed(i) || !path_exists(folder)) continue;
    remove_tree(folder);
  }
}

int64_t Queue::count_done() const {
  return std::count_if(units_.begin(), units_.end(),
                       [](const Unit& unit) { return stage_of(unit) == Stage::done; });
}

}  // namespace pyramoe::lab
