// A resumed run is the run that never stopped; the same run twice is the same bits, whatever the
// number of threads; a step that is not finite changes nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/file.h"
#include "core/parallel.h"
#include "data/token_file.h"
#include "tests/train/support.h"
#include "train/run.h"

namespace pyramoe {
namespace {

test::Bits train_whole(const train::RunConfig& config) {
  train::Trainer trainer(config, kCpu);
  while (trainer.steps_done() < config.train.steps) trainer.step();
  return test::state_bits(trainer);
}

TEST(Resume, AtAnyStepIsBitwiseTheRunThatNeverStopped) {
  for (const char* kind : {"f32", "bf16", "bf16 states", "sgd"}) {
    SCOPED_TRACE(kind);
    const std::string text = kind;
    const test::ScratchFolder scratch;
    train::RunConfig config = test::small_config(scratch.path("run"));
    if (text.starts_with("bf16")) config.train.dtype = "bf16";
    if (text.ends_with("states")) config.train.states = "bf16";
    if (text == "sgd") {
      config.train.optimizer = "sgd";
      config.train.momentum = 0.9;
    }
    config.model.gate = "sigmoid_bias";
    const test::Bits whole = train_whole(config);
    for (int64_t cut = 1; cut < config.train.steps; ++cut) {
      {
        train::Trainer first(config, kCpu);
        while (first.steps_done() < cut) first.step();
        first.save();
      }
      train::Trainer second(config, kCpu);
      second.resume(nn::Checkpoint::newest(config.dir));
      ASSERT_EQ(second.steps_done(), cut);
      while (second.steps_done() < config.train.steps) second.step();
      test::expect_equal_bits(whole, test::state_bits(second));
      remove_tree(config.dir);
    }
  }
}

TEST(Determinism, SameBitsForAnyNumberOfThreads) {
  const test::ScratchFolder scratch;
  const train::RunConfig config = test::small_config(scratch.path("run"));
  const int before = num_threads();
  const test::Bits two = train_whole(config);
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    test::expect_equal_bits(two, train_whole(config));
  }
  set_num_threads(before);
}

TEST(Determinism, RecomputeChangesNoBit) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("run"));
  const test::Bits kept = train_whole(config);
  config.train.recompute = true;
  test::expect_equal_bits(kept, train_whole(config));
}

TEST(MicroBatch, AccumulationDoesNotChangeTheModel) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("run"));
  config.train.dtype = "f64";
  std::map<int64_t, train::StepResult> results;
  for (const int64_t micro : {1, 2, 4}) {
    config.train.micro_batch = micro;
    train::Trainer trainer(config, kCpu);
    results[micro] = trainer.step();
  }
  for (const int64_t micro : {1, 2}) {
    EXPECT_NEAR(results[micro].loss, results[4].loss, 1e-13);
    EXPECT_NEAR(results[micro].balance_loss, results[4].balance_loss, 1e-13);
    EXPECT_NEAR(results[micro].grad_norm, results[4].grad_norm, 1e-12);
    EXPECT_EQ(results[micro].load, results[4].load);
  }
}

TEST(NonFinite, AStepIsSkippedAndNothingChanges) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("run"));
  config.train.max_skips = 2;
  train::Trainer trainer(config, kCpu);
  trainer.step();
  // A weight that is not a number makes the loss so.
  nn::Parameter* norm = trainer.model().parameters().back();
  float& weight = norm->var.value().data<float>()[0];
  const float good = weight;
  weight = std::numeric_limits<float>::quiet_NaN();
  const test::Bits before = test::state_bits(trainer);
  const train::StepResult result = trainer.step();
  EXPECT_TRUE(result.skipped);
  test::expect_equal_bits(before, test::state_bits(trainer));
  EXPECT_EQ(trainer.steps_done(), 2);
  weight = good;
  EXPECT_FALSE(trainer.step().skipped);
  weight = std::numeric_limits<float>::infinity();
  trainer.step();
  trainer.step();
  try {
    trainer.step();
    FAIL() << "the third skipped step in a row must end the run";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::non_finite);
  }
}

TEST(Resume, RefusesAnotherModelOrBatch) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("run"));
  {
    train::Trainer trainer(config, kCpu);
    trainer.step();
    trainer.save();
  }
  const auto code_of = [&](const train::RunConfig& changed) {
    train::Trainer trainer(changed, kCpu);
    try {
      trainer.resume(nn::Checkpoint::newest(config.dir));
    } catch (const Error& error) {
      return error.code();
    }
    return Exit::done;
  };
  train::RunConfig other = config;
  other.model.experts = "0 8";
  EXPECT_EQ(code_of(other), Exit::config);
  other = config;
  other.train.batch = 8;
  EXPECT_EQ(code_of(other), Exit::config);
  other = config;
  other.train.optimizer = "sgd";
  EXPECT_EQ(code_of(other), Exit::config);
  EXPECT_EQ(code_of(config), Exit::done);
}

std::string token_file(const std::string& path, int64_t count) {
  make_folders(parent_folder(path));
  data::TokenFileWriter writer(path, 64, 0);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(i * i % 61));
  writer.write(tokens);
  writer.commit();
  return path;
}

TEST(Resume, RefusesOtherDataOrAnotherOrder) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("run"));
  config.data.synthetic = false;
  config.data.sources = {token_file(scratch.path("a.tok"), 2000),
                         token_file(scratch.path("b.tok"), 3000)};
  {
    train::Trainer trainer(config, kCpu);
    trainer.step();
    trainer.save();
  }
  const auto refusal = [&](const train::RunConfig& changed) -> std::string {
    train::Trainer trainer(changed, kCpu);
    try {
      trainer.resume(nn::Checkpoint::newest(config.dir));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::config);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(config), "");
  train::RunConfig other = config;
  other.data.sources = {token_file(scratch.path("moved/a.tok"), 2000), config.data.sources[1]};
  EXPECT_EQ(refusal(other), "") << "the same data elsewhere";
  other = config;
  other.train.seed += 1;
  EXPECT_NE(refusal(other).find("now:    train.seed"), std::string::npos);
  other = config;
  other.data.val_fraction = 0.5;  // half of it was trained on
  EXPECT_NE(refusal(other).find("a: 1000 tokens to train on"), std::string::npos);
  other = config;
  other.data.weights = {0.5, 0.5};
  EXPECT_NE(refusal(other), "");
  other = config;
  other.data.sources = {config.data.sources[0]};
  EXPECT_NE(refusal(other), "");
  token_file(config.data.sources[0], 2400);  // prepared again from more text
  EXPECT_NE(refusal(config), "");
}

TEST(Learning, EveryFamilyLearnsTheSyntheticText) {
  for (const char* experts : {"0", "4", "0 4"}) {
    for (const bool residual : {false, true}) {
      const test::ScratchFolder scratch;
      train::RunConfig config = test::small_config(scratch.path("run"));
      config.model.experts = experts;
      config.model.residual = residual;
      config.model.dropout = 0;
      config.model.bias = !residual;
      config.train.steps = 60;
      config.train.batch = 8;
      config.train.lr = 1e-2;
      train::Trainer trainer(config, kCpu);
      const double first = trainer.step().loss;
      double last = 0;
      while (trainer.steps_done() < config.train.steps) last = trainer.step().loss;
      EXPECT_LT(last, 0.75 * first) << experts << (residual ? " residual" : "");
    }
  }
}

}  // namespace
}  // namespace pyramoe
