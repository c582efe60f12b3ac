// What one step is made of: fresh noise, the mean over a batch of any size, clipping that only
// shortens, and counters that a skipped step leaves alone, also across a resume.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/kernels/step.h"
#include "tests/train/support.h"

namespace pyramoe {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

data::Batch some_batch(const train::RunConfig& config) {
  data::Batch batch;
  batch.rows = config.train.batch;
  batch.context = config.model.context;
  for (int64_t i = 0; i < batch.rows * batch.context; ++i) {
    batch.tokens.push_back(static_cast<int32_t>(i * 7 % config.model.vocab));
    batch.targets.push_back(static_cast<int32_t>((i * 7 + 3) % config.model.vocab));
  }
  return batch;
}

// Weights that never move: only what is drawn can change the loss of a batch.
TEST(Step, DropoutIsNewInEveryStepAndOfTheSeed) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("run"));
  config.model.noise = "none";
  config.model.experts = "0";
  config.model.residual = false;
  config.train.lr = config.train.min_lr = 0;
  const auto losses = [&](int64_t seed) {
    config.train.seed = 1;
    train::Trainer weights(config, kCpu);
    config.train.seed = seed;
    train::Trainer trainer(config, kCpu);
    const std::vector<nn::Parameter*> from = weights.model().parameters();
    const std::vector<nn::Parameter*> to = trainer.model().parameters();
    for (size_t i = 0; i < to.size(); ++i) to[i]->var.value().copy_from(from[i]->var.value());
    const double first = trainer.step_on(some_batch(config)).loss;
    return std::pair(first, trainer.step_on(some_batch(config)).loss);
  };
  const auto [first, second] = losses(1);
  EXPECT_NE(first, second) << "two steps drop the same features";
  EXPECT_NE(first, losses(2).first) << "two seeds drop the same features";
  EXPECT_EQ(first, losses(1).first);
  config.model.dropout = 0;
  EXPECT_EQ(losses(1).first, losses(2).second);
}

// While the batch grows, gradients are means over the rows of the step, not of the last batch.
TEST(Step, ABatchThatGrowsIsAMeanOverItsOwnRows) {
  const test::ScratchFolder scratch;
  train::RunConfig flat = test::small_config(scratch.path("run"));
  flat.train.batch = 2;
  train::RunConfig ramp = flat;
  ramp.train.batch = 8;
  ramp.train.ramp_start = 2;
  ramp.train.ramp_tokens = 1 << 20;
  train::Trainer a(flat, kCpu), b(ramp, kCpu);
  const train::StepResult one = a.step(), same = b.step();
  EXPECT_EQ(one.step_tokens, same.step_tokens);
  EXPECT_EQ(one.loss, same.loss);
  EXPECT_EQ(one.balance_loss, same.balance_loss);
  EXPECT_EQ(one.grad_norm, same.grad_norm);
  EXPECT_EQ(one.load, same.load);
}

TEST(Step, ClippingOnlyShortensAndWhatIsNotFiniteIsSkipped) {
  struct Row {
    double square, loss, most, clip, skip;
  };
  const double inf = std::numeric_limits<double>::infinity();
  for (const Row& row : {Row{16, 2, 1, 1 / (4 + 1e-6), 0}, Row{16, 2, 8, 1, 0}, Row{16, 2, 0, 1, 0},
                         Row{0, 2, 1, 1, 0}, Row{16, kNan, 8, 1, 1}, Row{16, inf, 8, 1, 1},
                         Row{kNan, 2, 0, 1, 1}, Row{inf, 2, 0, 1, 1}}) {
    const Tensor squares =
        Tensor::from(std::vector<double>{row.square / 4, row.square * 3 / 4}, {2});
    const Tensor loss = Tensor::from(std::vector<double>{row.loss}, {1});
    Tensor scalars = Tensor::zeros({8}, DType::f64, kCpu);
    kernels::guard_step(squares, loss, row.most, scalars);
    const double* s = scalars.data<double>();
    EXPECT_DOUBLE_EQ(s[3], row.clip) << row.square << " " << row.most;
    EXPECT_EQ(s[4], row.skip) << row.square << " " << row.loss;
    if (std::isfinite(row.square)) {
      EXPECT_DOUBLE_EQ(s[5], std::sqrt(row.square));
    }
  }
}

// A weight that is not a number makes one step so.
void skip_a_step(train::Trainer& trainer) {
  float& weight = trainer.model().parameters().back()->var.value().data<float>()[0];
  const float good = weight;
  weight = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(trainer.step().skipped);
  weight = good;
}

TEST(Step, ASkippedStepIsRememberedAcrossAResume) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("run"));
  config.model.gate = "sigmoid_bias";
  config.train.max_skips = 1;
  train::Trainer whole(config, kCpu);
  whole.step();
  const test::Bits before = test::state_bits(whole);
  skip_a_step(whole);
  test::expect_equal_bits(before, test::state_bits(whole));  // the routers' biases too
  whole.save();
  train::Trainer resumed(config, kCpu), strict(config, kCpu);
  resumed.resume(nn::Checkpoint::newest(config.dir));
  strict.resume(nn::Checkpoint::newest(config.dir));
  EXPECT_EQ(resumed.steps_done(), 2);
  EXPECT_EQ(resumed.optimizer().updates(), 1);
  whole.step();
  resumed.step();
  test::expect_equal_bits(test::state_bits(whole), test::state_bits(resumed));
  EXPECT_THROW(skip_a_step(strict), Error) << "the second in a row, one before the resume";
}

TEST(Step, ATeacherCountsForTheShareOfTheRunThatTheConfigSays) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("teacher"));
  train::Trainer(config, kCpu).save();
  config.dir = scratch.path("student");
  config.distill.teacher = scratch.path("teacher");
  config.distill.schedule = "staged";
  config.distill.stop_at = 0.5;
  train::Trainer trainer(config, kCpu);
  while (trainer.steps_done() < config.train.steps) {
    const train::StepResult result = trainer.step();
    EXPECT_EQ(result.distill_weight, result.step <= 6 ? 1 : 0) << result.step;
    EXPECT_EQ(result.distill_loss > 0, result.step <= 6) << result.step;
  }
}

}  // namespace
}  // namespace pyramoe
