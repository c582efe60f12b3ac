// A run that is asked to stop: SIGTERM, SIGUSR1 or SIGINT in any phase gives a checkpoint at a step
// boundary and exit code 75, and the same command ends with the bits of a run that never stopped.
// And a run that must stop by itself: numbers that are not finite, a folder that is taken.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <random>

#include "core/file.h"
#include "core/safetensors.h"
#include "nn/checkpoint.h"
#include "tests/cli/support.h"

namespace pyramoe {
namespace {

using test::Outcome;
using test::Process;
using test::Scratch;

constexpr int64_t kSteps = 120;

class Stop : public testing::Test {
 protected:
  void SetUp() override {
    config_ = test::tiny_config(scratch_, kSteps);
    // Often saved, and validated for long enough to be caught at it.
    settings_ = {"train.save_every=10", "train.eval_every=40", "train.eval_sequences=400",
                 "train.log_every=1"};
  }
  std::vector<std::string> command(const std::string& dir) {
    return test::train_command(config_, dir, settings_);
  }
  void expect_end(const std::string& dir, const std::string& what) {
    if (expected_.empty()) {
      const Outcome whole = test::run_program(command(scratch_ / "whole"));
      ASSERT_EQ(whole.code, 0) << whole.text;
      expected_ = test::state_of(scratch_ / "whole", kSteps);
    }
    const Outcome resumed = test::run_program(command(dir));
    ASSERT_EQ(resumed.code, 0) << what << "\n" << resumed.text;
    EXPECT_TRUE(test::state_of(dir, kSteps) == expected_) << what << ": other bits";
    EXPECT_EQ(test::logged_steps(dir), test::logged_steps(scratch_ / "whole")) << what;
    EXPECT_EQ(test::logged_validations(dir), test::logged_validations(scratch_ / "whole")) << what;
    EXPECT_EQ(test::csv_steps(dir), test::csv_steps(scratch_ / "whole")) << what;
    EXPECT_EQ(test::get(dir + "/eval.json"), test::get(scratch_ / "whole/eval.json")) << what;
    EXPECT_EQ(test::leftovers(dir), std::vector<std::string>{}) << what;
    test::remove_all(dir);
  }
  void expect_saved(const Outcome& outcome, const std::string& dir, const std::string& what) {
    EXPECT_EQ(outcome.code, 75) << what << " signal " << outcome.signal << "\n" << outcome.text;
    EXPECT_TRUE(outcome.says("The same command goes on from there")) << what << outcome.text;
    EXPECT_NO_THROW(nn::Checkpoint::newest(dir)) << what;
  }

  Scratch scratch_;
  std::string config_, expected_;
  std::vector<std::string> settings_;
};

TEST_F(Stop, InEveryPhaseSavesAndGoesOnBitForBit) {
  struct Phase {
    const char* name;
    std::function<bool(Process&, const std::string& dir)> reached;
  };
  const auto file_appears = [](Process& process, const std::string& path) {
    while (!test::there(path)) {
      if (!process.running()) return false;
      test::pause_us(20);
    }
    return true;
  };
  const std::vector<Phase> phases = {
      {"start",
       [&](Process& p, const std::string& dir) { return file_appears(p, dir + "/run.lock"); }},
      {"first step", [](Process& p, const std::string&) { return p.wait_for("step 1/"); }},
      {"step", [](Process& p, const std::string&) { return p.wait_for("step 25/"); }},
      // The validation after step 40 begins when that step's line is out.
      {"eval", [](Process& p, const std::string&) { return p.wait_for("step 40/"); }},
      {"save",
       [&](Process& p, const std::string& dir) { return file_appears(p, dir + "/checkpoints"); }},
  };
  for (const int signal : {SIGTERM, SIGUSR1, SIGINT}) {
    for (const Phase& phase : phases) {
      const std::string dir = scratch_ / "run", what = cat(phase.name, ", signal ", signal);
      Process process(command(dir));
      ASSERT_TRUE(phase.reached(process, dir)) << what << process.text();
      process.send(signal);
      expect_saved(process.wait(), dir, what);
      expect_end(dir, what);
    }
  }
}

TEST_F(Stop, ASecondSignalDoesNoHarm) {
  for (int64_t i = 0; i < (test::campaign() ? 20 : 5); ++i) {
    const std::string dir = scratch_ / "run";
    Process process(command(dir));
    ASSERT_TRUE(process.wait_for("step 20/"));
    while (process.running()) {
      process.send(i % 2 ? SIGTERM : SIGUSR1);
      test::pause_us(50);
    }
    expect_saved(process.wait(), dir, cat("many signals, ", i));
    expect_end(dir, "many signals");
  }
}

TEST_F(Stop, AtAnyTimeAgainAndAgain) {
  std::mt19937_64 random(5);
  // Stops fall anywhere from the start to well past the first step, however slow this build is.
  const auto begin = std::chrono::steady_clock::now();
  Process first(command(scratch_ / "first"));
  ASSERT_TRUE(first.wait_for("step 1/"));
  const std::chrono::duration<double, std::micro> start = std::chrono::steady_clock::now() - begin;
  first.send(SIGTERM);
  first.wait();
  const auto span = static_cast<uint64_t>(std::max(60000.0, 3 * start.count()));
  for (int64_t round = 0; round < (test::campaign() ? 15 : 2); ++round) {
    const std::string dir = scratch_ / "run";
    int64_t stops = 0;
    for (bool done = false; !done; ++stops) {
      ASSERT_LT(stops, 1000) << "the run makes no progress";
      Process process(command(dir));
      while (!test::there(dir + "/run.lock")) test::pause_us(20);  // from then on it listens
      test::pause_us(2000 + static_cast<int64_t>(random() % span));
      process.send(SIGTERM);
      const Outcome outcome = process.wait();
      done = outcome.code == 0;
      // On a resumed run the lock file is there before the program has begun to listen.
      if (!done && outcome.signal != SIGTERM) expect_saved(outcome, dir, cat("stop ", stops));
    }
    expect_end(dir, cat("round ", round, " after ", stops, " stops"));
  }
}

TEST_F(Stop, TwoProcessesNeverShareARunFolder) {
  const std::string dir = scratch_ / "run";
  Process first(command(dir));
  ASSERT_TRUE(first.wait_for("step 1/"));
  const Outcome second = test::run_program(command(dir));
  if (first.running()) {
    EXPECT_EQ(second.code, 2) << second.text;
    EXPECT_TRUE(second.says("another process is training in this folder")) << second.text;
  }
  first.send(SIGTERM);
  expect_saved(first.wait(), dir, "the first of two");
  expect_end(dir, "the first of two");
  // A lock that a killed process left does not lock anything.
  test::put(scratch_ / "run.lock", "");
}

TEST_F(Stop, NumbersThatAreNotFiniteEndTheRunAndStayOutOfTheCheckpoint) {
  const std::string dir = scratch_ / "run";
  const Outcome outcome = test::run_program(test::train_command(
      config_, dir,
      {"train.lr=100", "train.min_lr=100", "train.optimizer=sgd", "train.clip=0",
       "train.save_every=1", "train.max_skips=3", "train.steps=1000"}));
  EXPECT_EQ(outcome.code, 5) << outcome.text;
  EXPECT_TRUE(outcome.says("not finite for 4 steps in a row")) << outcome.text;
  EXPECT_TRUE(outcome.says("Lower train.lr")) << outcome.text;
  EXPECT_TRUE(outcome.says("SKIPPED")) << outcome.text;
  const nn::Checkpoint last = nn::Checkpoint::newest(dir);
  const SafetensorsReader weights(last.folder() + "/model.safetensors");
  for (const SafetensorsEntry& entry : weights.entries()) {
    for (const double x : weights.tensor(entry.name).to_vector()) {
      ASSERT_TRUE(std::isfinite(x)) << entry.name;
    }
  }
}

}  // namespace
}  // namespace pyramoe
