// The runner with the real program: results, resuming after any end, teachers, failures.
#include "lab/runner.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "lab/child.h"
#include "lab/collect.h"
#include "lab/places.h"
#include "lab/prepare.h"
#include "lab/queue.h"
#include "tests/lab/tiny_experiment.h"
#include "train/run_folder.h"

namespace pyramoe {
namespace {

using lab::PlannedRun;
using lab::RunResult;
using test::TinyExperiments;

const std::string kProgram = std::string(PYRAMOE_BUILD_DIR) + "/pyramoe";

class Runner : public testing::Test {
 protected:
  std::vector<PlannedRun> plan(lab::PlanOptions options = {}) const {
    options.runs = files_.path("runs");
    return lab::plan_runs(files_.definition(), files_.scale(), options);
  }

  static int run(const std::vector<PlannedRun>& runs, bool keep = false) {
    lab::RunnerOptions options;
    options.program = kProgram;
    options.jobs = 2;
    options.keep_weights = keep;
    return lab::run_planned(runs, options);
  }

  static RunResult result_of(const PlannedRun& run) {
    RunResult result;
    EXPECT_TRUE(lab::read_run_result(run, result)) << run.arm;
    return result;
  }

  static bool has_checkpoints(const PlannedRun& run) {
    return path_exists(run.folder + "/checkpoints");
  }

  TinyExperiments files_;
};

TEST_F(Runner, TrainsEveryRunOnceAndCollectsIt) {
  const std::vector<PlannedRun> runs = plan();
  ASSERT_EQ(run(runs), 0);
  for (const PlannedRun& one : runs) {
    const RunResult result = result_of(one);
    EXPECT_EQ(result.seed, one.seed);
    EXPECT_EQ(result.config_hash, one.hash);
    EXPECT_EQ(result.device, "cpu");
    for (const char* metric : {"loss", "perplexity", "params_total", "tokens", "seconds",
                               "tokens_per_s", "loss.synthetic", "flops_per_token"}) {
      EXPECT_EQ(result.metrics.count(metric), 1u) << metric;
    }
    EXPECT_EQ(result.validation.size(), 3u);
    EXPECT_EQ(result.training.size(), 6u);
    EXPECT_EQ(lab::config_hash(train::parse_run_config(result.config, "config")), one.hash);
    EXPECT_FALSE(has_checkpoints(one)) << "nobody needs these weights";
  }
  EXPECT_NE(result_of(runs[0]).metrics["loss"], result_of(runs[2]).metrics["loss"]);
  EXPECT_EQ(result_of(runs[1]).metrics.count("dropped"), 1u);
  // Asked again, nothing runs: the logs stay as they are.
  const int64_t log = file_bytes(runs[0].folder + "/log.txt");
  ASSERT_EQ(run(runs), 0);
  EXPECT_EQ(file_bytes(runs[0].folder + "/log.txt"), log);
}

TEST_F(Runner, TeacherIsTrainedFirstAndItsWeightsGoLast) {
  files_.add(test::kStudent);
  const std::vector<PlannedRun> runs = plan({.seeds = 1});
  ASSERT_EQ(run(runs), 0);
  EXPECT_GT(result_of(runs[2]).metrics["loss"], 0);
  EXPECT_FALSE(has_checkpoints(runs[1]));
  // A second student of the same teacher, whose weights are gone: it trains again, to the same end.
  const double before = result_of(runs[1]).metrics["loss"];
  files_.add(std::string(test::kStudent) + R"(
[[arm]]
name = "second"
set  = { "distill.teacher" = "@moe", "distill.student_layers" = 1, "distill.stop_at" = 0.5 }
)");
  const std::vector<PlannedRun> more = plan({.seeds = 1});
  ASSERT_EQ(run(more), 0);
  EXPECT_NE(result_of(more[3]).metrics["loss"], result_of(more[2]).metrics["loss"]);
  EXPECT_EQ(result_of(more[1]).metrics["loss"], before);
  EXPECT_FALSE(has_checkpoints(more[1]));
}

TEST_F(Runner, EvaluatesATrainedRunAgain) {
  files_.add(
      "\n[[arm]]\nname = \"again\"\nreuse = \"moe\"\neval = [\"--loss\", \"--limit\", "
      "\"4\"]\n");
  const std::vector<PlannedRun> runs = plan({.seeds = 1});
  ASSERT_EQ(run(runs, true), 0);
  EXPECT_TRUE(has_checkpoints(runs[1])) << "--keep-weights";
  const RunResult trained = result_of(runs[1]), again = result_of(runs[2]);
  EXPECT_EQ(again.config, "");
  EXPECT_EQ(again.metrics.at("params_total"), trained.metrics.at("params_total"));
  EXPECT_NEAR(again.metrics.at("loss"), trained.metrics.at("loss"), 1e-6);
}

TEST_F(Runner, OneFailureCostsOneRunAndWhatNeedsIt) {
  files_.add(std::string(test::kStudent) + R"(
[[arm]]
name = "broken"
set  = { "data.synthetic" = false, "data.sources" = ["nowhere.tok"] }
[[arm]]
name = "pupil"
set  = { "distill.teacher" = "@broken", "distill.student_layers" = 1 }
)");
  const std::vector<PlannedRun> runs = plan({.seeds = 1});
  testing::internal::CaptureStdout();
  EXPECT_EQ(run(runs), static_cast<int>(Exit::data));
  const std::string shown = testing::internal::GetCapturedStdout();
  EXPECT_NE(shown.find("FAILED    broken, seed 1 (status 3)"), std::string::npos) << shown;
  EXPECT_NE(shown.find("cannot open nowhere.tok"), std::string::npos) << shown;
  EXPECT_NE(shown.find("not run   pupil, seed 1: it needs broken, seed 1"), std::string::npos)
      << shown;
  for (const PlannedRun& one : runs) {
    const bool lost = one.arm == "broken" || one.arm == "pupil";
    EXPECT_EQ(path_exists(one.folder + "/result.json"), !lost) << one.arm;
  }
}

TEST_F(Runner, BenchTimesEveryArm) {
  files_.put("experiments/tiny/experiment.toml",
             test::replaced(test::kTinyExperiment, "source   =", "bench = true\nsource   ="));
  const std::vector<PlannedRun> runs = plan({.seeds = 1});
  ASSERT_EQ(run(runs), 0);
  for (const PlannedRun& one : runs) {
    EXPECT_GT(result_of(one).metrics["bench.tokens_per_s"], 0);
    EXPECT_GT(result_of(one).metrics["bench.peak_bytes"], 0);
  }
}

// Children do not outlive a runner that was killed: their folders are free at once.
TEST_F(Runner, ChildrenDieWithIt) {
  const std::vector<PlannedRun> runs = plan({.seeds = 1, .length = 4000});
  lab::Child child({kProgram, "experiment", "run", files_.folder(), "--scale", "tiny", "--seeds",
                    "1", "--long", "4000", "--jobs", "2", "--runs", files_.path("runs")},
                   {"", files_.path("log"), {}});
  for (const PlannedRun& one : runs) {
    for (int i = 0; i < 4000 && !path_exists(one.folder + "/metrics.jsonl"); ++i) ::usleep(5000);
  }
  child.send(SIGKILL);
  child.wait();
  ::usleep(200000);
  for (const PlannedRun& one : runs) {
    ASSERT_TRUE(path_exists(one.folder + "/metrics.jsonl")) << read_file(files_.path("log"));
    EXPECT_NO_THROW(train::RunLock lock(one.folder)) << one.arm << " is still training";
  }
}

// kill -9 of the runner at any moment: the next call ends with the
// numbers of a run that was never stopped.
TEST_F(Runner, GoesOnAfterKill) {
  files_.add(test::kStudent);
  const std::vector<PlannedRun> whole = plan({.seeds = 1, .length = 20});
  ASSERT_EQ(run(whole), 0);
  const std::string folder = files_.path("killed");
  const std::vector<std::string> command = {
      kProgram, "experiment", "run", files_.folder(), "--scale", "tiny",   "--seeds",
      "1",      "--long",     "20",  "--jobs",        "2",       "--runs", folder};
  int status = 0;
  for (int attempt = 0; attempt < 4; ++attempt) {
    lab::Child child(command, {"", files_.path("log"), {}});
    ::usleep(static_cast<useconds_t>(60000 + attempt * 70000));
    child.send(SIGKILL);
    child.wait();
  }
  {
    lab::Child child(command, {"", files_.path("log"), {}});
    status = child.wait();
  }
  ASSERT_EQ(status, 0) << read_file(files_.path("log"));
  for (PlannedRun one : whole) {
    const double loss = result_of(one).metrics["loss"];
    one.folder = folder + "/tiny" + one.folder.substr(one.folder.rfind('/'));
    EXPECT_EQ(result_of(one).metrics["loss"], loss) << one.arm;
  }
}

TEST_F(Runner, StopsOnASignalAndGoesOn) {
  const std::vector<std::string> command = {
      kProgram, "experiment", "run", files_.folder(), "--scale", "tiny",   "--seeds",
      "1",      "--long",     "400", "--jobs",        "2",       "--runs", files_.path("runs")};
  lab::Child child(command, {"", files_.path("log"), {}});
  const std::vector<PlannedRun> runs = plan({.seeds = 1, .length = 400});
  for (int i = 0; i < 1000 && !path_exists(runs[1].folder + "/metrics.jsonl"); ++i) ::usleep(5000);
  child.send(SIGTERM);
  EXPECT_EQ(child.wait(), static_cast<int>(Exit::preempted)) << read_file(files_.path("log"));
  EXPECT_FALSE(path_exists(runs[1].folder + "/result.json"));
  EXPECT_NE(read_file(files_.path("log")).find("the same command goes on"), std::string::npos);
}

// A run that came to its end when nobody was left to collect it is collected, not trained again.
TEST_F(Runner, CollectsWhatWasFinishedBefore) {
  const std::vector<PlannedRun> runs = plan({.seeds = 1, .arms = {"dense"}});
  ASSERT_EQ(run(runs), 0);
  const int64_t log = file_bytes(runs[0].folder + "/log.txt");
  remove_tree(runs[0].folder + "/result.json");
  ASSERT_EQ(run(runs), 0);
  EXPECT_TRUE(path_exists(runs[0].folder + "/result.json"));
  EXPECT_EQ(file_bytes(runs[0].folder + "/log.txt"), log);
}

// With little time left only what fits is started; the next call does the rest.
TEST_F(Runner, EndsInTimeAndGoesOn) {
  const std::vector<PlannedRun> runs = plan({.seeds = 1, .length = 400});
  lab::RunnerOptions options;
  options.program = kProgram;
  options.jobs = 1;
  options.minutes = 0.2 / 60;
  EXPECT_THROW(lab::run_planned(runs, options), Error);
  EXPECT_FALSE(path_exists(runs[1].folder + "/result.json"));
  EXPECT_FALSE(path_exists(runs[0].folder)) << "there was no time to start it";
}

TEST_F(Runner, AsksForWeightsOnlyWhereTheyAreWorthIt) {
  PlannedRun one = plan({.seeds = 1})[0];
  make_folders(one.folder);
  const auto save_every = [&](bool weights) {
    const std::string file = lab::write_request(one, weights);
    return train::parse_run_config(read_file(file), file).train.save_every;
  };
  EXPECT_EQ(save_every(false), -1);
  EXPECT_EQ(save_every(true), 0);
  one.flops = 1e13;  // long and small: saves on its way
  EXPECT_EQ(save_every(false), one.config.train.steps / 4 + 1);
  one.cost.bytes_training = int64_t{7} << 30;  // long and large: does not
  EXPECT_EQ(save_every(false), -1);
}

TEST_F(Runner, LongTrainingsComeFirstSeedBySeed) {
  files_.add(test::kStudent);
  lab::Queue queue(plan(), false);
  std::vector<std::string> order;
  while (const std::optional<size_t> next = queue.next()) {
    lab::Unit& unit = queue.units()[*next];
    order.push_back(cat(unit.run.arm, unit.run.seed));
    unit.trained = true;
  }
  EXPECT_EQ(order,
            (std::vector<std::string>{"moe1", "dense1", "student1", "moe2", "dense2", "student2"}));
}

TEST_F(Runner, PreparesDataThatIsMissing) {
  const std::string tokens = files_.path("data.tok");
  std::vector<PlannedRun> runs = plan({.seeds = 1});
  for (PlannedRun& one : runs) one.config.data.sources = {"part=" + tokens};
  lab::Scale scale = files_.scale();
  EXPECT_EQ(lab::missing_data(runs), std::vector<std::string>{tokens});
  EXPECT_NE(test::complaint([&] { lab::prepare_data(scale, runs, kProgram); }).find(tokens),
            std::string::npos);
  scale.prepare = "exit 1";
  EXPECT_NE(test::complaint([&] { lab::prepare_data(scale, runs, kProgram); }).find("failed"),
            std::string::npos);
  scale.prepare = "test -x \"$PYRAMOE\" && touch " + tokens;
  lab::prepare_data(scale, runs, kProgram);
  EXPECT_TRUE(path_exists(tokens));
  scale.prepare = "exit 1";  // all is there: not asked again
  lab::prepare_data(scale, runs, kProgram);
}

}  // namespace
}  // namespace pyramoe
