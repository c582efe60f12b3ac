// What counts as done in a run folder. A run that is taken for another one, or for one that went
// further than it did, would put a wrong number into results.json without a word.
#include "lab/queue.h"

#include <gtest/gtest.h>

#include "lab/collect.h"
#include "lab/runner.h"
#include "tests/lab/tiny_experiment.h"

namespace pyramoe {
namespace {

using lab::PlannedRun;
using lab::RunResult;

class LabFolder : public testing::Test {
 protected:
  // One trained run, with its weights.
  PlannedRun trained() const {
    const std::vector<PlannedRun> runs =
        lab::plan_runs(files_.definition(), files_.scale(),
                       {.seeds = 1, .arms = {"dense"}, .runs = files_.path("runs")});
    lab::RunnerOptions options;
    options.program = std::string(PYRAMOE_BUILD_DIR) + "/pyramoe";
    options.keep_weights = true;
    EXPECT_EQ(lab::run_planned(runs, options), 0);
    return runs.at(0);
  }
  static bool tasks_are_done(const PlannedRun& run) {
    return lab::Queue({run}, false).units().at(0).tasks_done;
  }

  test::TinyExperiments files_;
};

TEST_F(LabFolder, IsDoneForItsOwnConfigAtItsLastStepAlone) {
  const PlannedRun run = trained();
  PlannedRun longer = run, other = run;
  longer.config.train.steps += 2;
  other.hash = "0123456789abcdef";
  RunResult result;
  EXPECT_TRUE(lab::training_finished(run));
  EXPECT_FALSE(lab::training_finished(longer));
  EXPECT_FALSE(lab::training_finished(other));
  EXPECT_TRUE(lab::has_weights(run));
  EXPECT_FALSE(lab::has_weights(longer));
  EXPECT_TRUE(lab::read_run_result(run, result));
  EXPECT_FALSE(lab::read_run_result(other, result));
  EXPECT_EQ(lab::Queue({run}, false).next(), std::nullopt);
  EXPECT_EQ(lab::Queue({other}, false).next(), 0u);
}

TEST_F(LabFolder, TasksAreDoneAtTheirOwnLimitAndAllOfThem) {
  PlannedRun run = trained();
  RunResult result;
  ASSERT_TRUE(lab::read_run_result(run, result));
  result.metrics["acc.piqa"] = 0.5;
  result.metrics["task_limit"] = 20;
  lab::write_run_result(run, result);
  EXPECT_TRUE(tasks_are_done(run)) << "none are wanted";
  run.tasks = "piqa", run.task_limit = 20;
  EXPECT_TRUE(tasks_are_done(run));
  run.task_limit = 0;
  EXPECT_FALSE(tasks_are_done(run)) << "those were 20 samples, all are wanted";
  run.tasks = "piqa,boolq", run.task_limit = 20;
  EXPECT_FALSE(tasks_are_done(run)) << "boolq is missing";
}

TEST_F(LabFolder, AnAccuracyIsTheTasksOwnMetric) {
  const std::string file = files_.path("tasks.json");
  files_.put("tasks.json", R"({"results": {
    "piqa": {"acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.75},
    "triviaqa": {"exact_match,none": 0.25}}})");
  EXPECT_EQ(lab::task_metrics(file),
            (std::map<std::string, double>{{"acc.piqa", 0.5}, {"acc.triviaqa", 0.25}}));
}

}  // namespace
}  // namespace pyramoe
