// A save that is cut short: killed, out of space, refused by the disk, at every operation. The
// previous or the new checkpoint is there, verifies, and the run that goes on from it ends with the
// bits of a run that was never cut.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "core/file_ops.h"
#include "nn/checkpoint.h"
#include "tests/cli/support.h"

namespace pyramoe {
namespace {

using test::Launch;
using test::Outcome;
using test::Scratch;

constexpr int64_t kSteps = 6;

// A run that has reached step 2, and what it must look like at its end.
class SaveFaults : public testing::Test {
 protected:
  void SetUp() override {
    config_ = test::tiny_config(scratch_, kSteps);
    const Outcome whole =
        test::run_program(test::train_command(config_, scratch_ / "whole", {"train.keep_last=9"}));
    ASSERT_EQ(whole.code, 0) << whole.text;
    expected_ = test::state_of(scratch_ / "whole", kSteps);
    test::copy_tree(scratch_ / "whole", scratch_ / "begun");
    test::remove_all(test::checkpoint_folder(scratch_ / "begun", 4));
    test::remove_all(test::checkpoint_folder(scratch_ / "begun", 6));
  }

  // A fresh copy of the begun run.
  std::string begin() {
    const std::string dir = scratch_ / ("run" + std::to_string(++copies_));
    test::copy_tree(scratch_ / "begun", dir);
    return dir;
  }

  Outcome train(const std::string& dir, const Launch& launch = {}) {
    return test::run_program(test::train_command(config_, dir, {"train.keep_last=1"}), launch);
  }
  Outcome train_with_fault(const std::string& dir, const std::string& fault) {
    return train(dir, {.environment = {{"PYRAMOE_FAULT", fault}}});
  }

  // The promise: something loads; the same command goes on from it to the same bits; no litter.
  void expect_recovers(const std::string& dir, const std::string& what, int64_t least_step = 2) {
    EXPECT_GE(nn::Checkpoint::newest(dir).step(), least_step) << what;
    const Outcome resumed = train(dir);
    ASSERT_EQ(resumed.code, 0) << what << "\n" << resumed.text;
    EXPECT_FALSE(resumed.says("skipped a checkpoint")) << what << "\n" << resumed.text;
    EXPECT_TRUE(test::state_of(dir, kSteps) == expected_) << what << ": other bits";
    EXPECT_EQ(test::logged_steps(dir), (std::vector<int64_t>{1, 2, 3, 4, 5, 6})) << what;
    EXPECT_EQ(test::leftovers(dir), std::vector<std::string>{}) << what;
    test::remove_all(dir);
  }

  Scratch scratch_;
  std::string config_, expected_;
  int64_t copies_ = 0;
};

TEST_F(SaveFaults, KilledAtEveryOperationLosesNothing) {
  int64_t n = 1;
  for (;; ++n) {
    const std::string dir = begin(), what = "kill@" + std::to_string(n);
    const Outcome outcome = train_with_fault(dir, what);
    if (outcome.code == 0) break;
    ASSERT_EQ(outcome.signal, SIGKILL) << what << "\n" << outcome.text;
    expect_recovers(dir, what);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n, 100) << "the run was expected to change the disk more often";
}

TEST_F(SaveFaults, KilledBeforeTheFirstCheckpointStartsAgain) {
  const int64_t stride = test::campaign() ? 1 : 7;
  for (int64_t n = 1;; n += stride) {
    const std::string dir = scratch_ / ("fresh" + std::to_string(n));
    const std::string what = "kill@" + std::to_string(n);
    const Outcome outcome = train_with_fault(dir, what);
    if (outcome.code == 0) break;
    ASSERT_EQ(outcome.signal, SIGKILL) << what << "\n" << outcome.text;
    const Outcome again = train(dir);
    ASSERT_EQ(again.code, 0) << what << "\n" << again.text;
    EXPECT_TRUE(test::state_of(dir, kSteps) == expected_) << what << ": other bits";
    EXPECT_EQ(test::leftovers(dir), std::vector<std::string>{}) << what;
  }
}

TEST_F(SaveFaults, FullOrFailingDiskEndsWithFourAndRetryWorks) {
  const int64_t stride = test::campaign() ? 1 : 6;
  for (const std::string kind : {"enospc", "eio"}) {
    for (const std::string after : {"+", ""}) {
      for (int64_t n = 1;; n += stride) {
        const std::string dir = begin(), what = kind + "@" + std::to_string(n) + after;
        const Outcome outcome = train_with_fault(dir, what);
        if (outcome.code == 0) {
          EXPECT_GT(n, 100) << what << " was not noticed";
          break;
        }
        ASSERT_EQ(outcome.code, 4) << what << "\n" << outcome.text;
        EXPECT_TRUE(outcome.says(kind == "eio" ? "check it (dmesg)" : "free some space"))
            << what << "\n"
            << outcome.text;
        expect_recovers(dir, what);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(SaveFaults, ShortWritesAreContinued) {
  for (int64_t n = 1; n < 140; ++n) {
    const std::string dir = begin(), what = "short@" + std::to_string(n);
    const Outcome outcome = train_with_fault(dir, what);
    ASSERT_EQ(outcome.code, 0) << what << "\n" << outcome.text;
    expect_recovers(dir, what, kSteps);
  }
}

TEST_F(SaveFaults, RealKillsAtAnyTimeLoseNothing) {
  std::mt19937_64 random(20260214);
  const int64_t kills = test::campaign() ? 500 : 10;
  const double begin_time = test::now_seconds();
  ASSERT_EQ(train(begin()).code, 0);
  const double usual = test::now_seconds() - begin_time;
  for (int64_t i = 0; i < kills; ++i) {
    const std::string dir = begin();
    const auto wait = static_cast<double>(random() % 1000) * 1e-3 * usual;
    {
      test::Process process(test::train_command(config_, dir, {"train.keep_last=1"}));
      test::pause_us(static_cast<int64_t>(wait * 1e6));
      process.send(SIGKILL);
      process.wait();
    }
    expect_recovers(dir, cat("kill ", i, " after ", wait, " s"));
    if (HasFatalFailure()) return;
  }
}

// A finished run that is started again, or stopped just after a save, must not put its only
// checkpoint at risk by writing it a second time.
TEST_F(SaveFaults, AFinishedRunIsNotSavedAgain) {
  const std::string dir = begin();
  ASSERT_EQ(train(dir).code, 0);
  for (int64_t n = 1; n < 30; ++n) {
    const Outcome outcome = train_with_fault(dir, "kill@" + std::to_string(n));
    EXPECT_EQ(nn::Checkpoint::newest(dir).step(), kSteps) << n << outcome.text;
    if (outcome.code == 0) return;
  }
}

// In-process: a second save of a step replaces the first; at no operation is there none.
TEST_F(SaveFaults, SavingAStepAgainAlwaysLeavesOne) {
  const std::string dir = scratch_ / "again";
  nn::CheckpointContent content;
  content.step = 3;
  content.config = "model.layers = 1\n";
  content.model = {{"w", Tensor::full({8}, DType::f32, 1.0)}};
  for (int64_t n = 1;; ++n) {
    nn::save_checkpoint(dir, content);
    const pid_t child = ::fork();
    if (child == 0) {
      set_fault_plan({.fail_at_operation = n, .kind = FaultKind::kill});
      nn::save_checkpoint(dir, content);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(nn::Checkpoint::newest(dir).step(), 3) << "killed at operation " << n;
    if (WIFEXITED(status)) break;
  }
}

TEST_F(SaveFaults, AFileSizeLimitIsADiskThatIsFull) {
  const std::string dir = begin();
  const Outcome outcome = train(dir, {.file_size = 6000});
  EXPECT_EQ(outcome.code, 4) << "signal " << outcome.signal << "\n" << outcome.text;
  EXPECT_TRUE(outcome.says("ulimit -f")) << outcome.text;
  expect_recovers(dir, "file size limit");
}

TEST_F(SaveFaults, AReadOnlyFolderEndsWithFourAndTheOldCheckpointStays) {
  const std::string dir = begin();
  const bool root = ::geteuid() == 0;
  if (root) {
    ASSERT_EQ(::system(("chmod 755 " + scratch_.path() + "; chown -R nobody " + dir).c_str()), 0);
  }
  const Launch launch{.as_nobody = root};
  if (test::run_program({"--version"}, launch).code != 0) {
    GTEST_SKIP() << "runs as root, and another user may not run the program here";
  }
  ::chmod((dir + "/checkpoints").c_str(), 0555);
  const Outcome outcome = train(dir, launch);
  EXPECT_EQ(outcome.code, 4) << outcome.text;
  EXPECT_TRUE(outcome.says("check the owner and permissions")) << outcome.text;
  ::chmod((dir + "/checkpoints").c_str(), 0755);
  expect_recovers(dir, "read-only checkpoints");
  const Outcome nowhere =
      test::run_program(test::train_command(config_, "/proc/no_run_can_be_here"), launch);
  EXPECT_EQ(nowhere.code, 2) << nowhere.text;
}

}  // namespace
}  // namespace pyramoe
