// When distillation ends by itself: the rule on planted cosines, the measurement against gradients
// made apart, and two planted teachers, one who knows nothing and one who knows more.
#include "train/auto_stop.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/file.h"
#include "tests/train/support.h"

namespace pyramoe {
namespace {

train::DistillConfig rule() {
  train::DistillConfig config;
  config.teacher = "a";
  config.schedule = "auto";
  config.check_every = 10;
  config.window = 2;
  return config;
}

TEST(AutoStop, StopsWhenTheMeanOfTheWindowFallsBelowTheThreshold) {
  train::AutoStop stop(rule());
  stop.add(10, 0.5);
  stop.add(20, -0.4);  // mean 0.05
  EXPECT_EQ(stop.stopped(), -1);
  stop.add(30, 0.3);  // mean -0.05
  EXPECT_EQ(stop.stopped(), 30);
}

TEST(AutoStop, DoesNotStopOnOneBadCheckNorOnNumbersThatAreNone) {
  train::AutoStop stop(rule());
  stop.add(10, -0.9);  // the window is not full
  EXPECT_EQ(stop.stopped(), -1);
  stop.add(20, std::numeric_limits<double>::quiet_NaN());
  stop.add(30, 0.95);
  EXPECT_EQ(stop.stopped(), -1);
}

TEST(AutoStop, AsksAtMultiplesOnceAndOnlyWhileItCounts) {
  train::AutoStop stop(rule());
  EXPECT_FALSE(stop.due(0));
  EXPECT_FALSE(stop.due(5));
  EXPECT_TRUE(stop.due(10));
  stop.add(10, -1);
  EXPECT_FALSE(stop.due(10));  // a step that was asked to stop comes again
  stop.add(20, -1);
  EXPECT_EQ(stop.stopped(), 20);
  EXPECT_FALSE(stop.due(30));
  train::DistillConfig staged = rule();
  staged.schedule = "staged";
  EXPECT_FALSE(train::AutoStop(staged).due(10));
}

TEST(AutoStop, ItsStateIsAllOfIt) {
  train::AutoStop stop(rule());
  stop.add(10, 1.0 / 3);
  train::AutoStop again(rule());
  again.put_state(parse_json(stop.state().dump(), "state"), "state");
  EXPECT_EQ(again.state(), stop.state());
  EXPECT_EQ(again.last_cosine(), 1.0 / 3);
  EXPECT_FALSE(again.due(10));
  EXPECT_THROW(again.put_state(Json::object(), "state"), Error);
}

// A model without randomness in f64, its teacher and what it takes to tell gradients apart.
train::RunConfig student_config(const test::ScratchFolder& scratch) {
  train::RunConfig config = test::small_config(scratch.path("student"));
  config.model.dropout = 0;
  config.model.noise = "none";
  config.model.experts = "0 2";
  config.train.dtype = "f64";
  config.train.clip = 0;
  config.train.warmup_tokens = 0;
  config.distill.teacher = scratch.path("teacher");
  config.distill.schedule = "auto";
  config.distill.check_every = 2;
  config.distill.check_batches = 1;
  config.distill.window = 2;
  return config;
}

// Trains the teacher for `steps` from the student's own initial values, on its data.
void make_teacher(const train::RunConfig& student, int64_t steps, double lr) {
  train::RunConfig config = student;
  config.dir = student.distill.teacher;
  config.distill = {};
  config.train.steps = std::max<int64_t>(steps, 1);
  config.train.lr = lr;
  config.train.min_lr = 0;
  train::Trainer trainer(config, kCpu);
  while (trainer.steps_done() < steps) trainer.step();
  trainer.save();
}

using Flat = std::vector<double>;

Flat gradients(train::Trainer& trainer) {
  Flat all;
  for (const train::FlatGroup& group : trainer.buffers().groups()) {
    const Flat part = group.grad.to_vector();
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

double dot(const Flat& a, const Flat& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Weights that never move: gradients of any step are those of the first weights.
TEST(TeacherCheck, IsTheCosineOfTheTwoGradientsOnTwoBatches) {
  const test::ScratchFolder scratch;
  train::RunConfig config = student_config(scratch);
  make_teacher(config, 0, 0);
  config.train.lr = config.train.min_lr = 0;
  config.model.balance_coef = 0;
  train::Trainer asked(config, kCpu);
  double found = 0;
  while (asked.steps_done() < 3) {
    const train::StepResult result = asked.step();
    if (result.step == 3) found = result.distill_cosine;
    EXPECT_EQ(std::isfinite(result.distill_cosine), result.step == 3);
  }
  // The gradients of steps 2 (CE) and 3 (CE, CE + KD), counted from 0.
  const auto at = [&](int64_t step, bool with_teacher) {
    train::RunConfig one = config;
    if (with_teacher)
      one.distill.schedule = "full";
    else
      one.distill = {};
    train::Trainer trainer(one, kCpu);
    while (trainer.steps_done() <= step) trainer.step();
    return gradients(trainer);
  };
  const Flat ce = at(2, false), ce_next = at(3, false);
  Flat kd = at(3, true);
  for (size_t i = 0; i < kd.size(); ++i) kd[i] -= ce_next[i];
  const double expected = dot(ce, kd) / std::sqrt(dot(ce, ce) * dot(kd, kd));
  EXPECT_NEAR(found, expected, 1e-9);
  EXPECT_GT(std::abs(expected), 1e-3);
}

// Steps with a teacher until it is stopped, or all of them.
int64_t train_until_stopped(const train::RunConfig& config) {
  train::Trainer trainer(config, kCpu);
  while (trainer.steps_done() < config.train.steps) {
    const train::StepResult result = trainer.step();
    if (result.distill_stopped >= 0) {
      EXPECT_EQ(result.distill_weight, 0);
      EXPECT_EQ(result.distill_loss, 0);
      return result.distill_stopped;
    }
    EXPECT_EQ(result.distill_weight, 1);
  }
  return -1;
}

// The student starts as its teacher, who knows nothing: all that it learns leads away from there.
TEST(TeacherCheck, ATeacherWhoKnowsNothingIsLeft) {
  const test::ScratchFolder scratch;
  train::RunConfig config = student_config(scratch);
  make_teacher(config, 0, 0);
  config.distill.init = "teacher";
  config.train.steps = 40;
  config.train.lr = config.train.min_lr = 1e-2;
  const int64_t stopped = train_until_stopped(config);
  EXPECT_GT(stopped, 0);
  EXPECT_LT(stopped, 40);
}

TEST(TeacherCheck, ATeacherWhoKnowsMoreIsKept) {
  const test::ScratchFolder scratch;
  train::RunConfig config = student_config(scratch);
  make_teacher(config, 80, 1e-2);
  config.train.steps = 20;
  EXPECT_EQ(train_until_stopped(config), -1);
}

TEST(TeacherCheck, AResumedRunStopsAtTheSameStepWithTheSameBits) {
  const test::ScratchFolder scratch;
  train::RunConfig config = student_config(scratch);
  make_teacher(config, 0, 0);
  config.distill.init = "teacher";
  config.train.steps = 24;
  config.train.lr = config.train.min_lr = 1e-2;
  train::Trainer whole(config, kCpu);
  int64_t stopped = -1;
  while (whole.steps_done() < 24) stopped = whole.step().distill_stopped;
  ASSERT_GT(stopped, 2);
  for (const int64_t cut : {int64_t{2}, stopped - 1, stopped, stopped + 1}) {
    {
      train::Trainer first(config, kCpu);
      while (first.steps_done() < cut) first.step();
      first.save();
    }
    train::Trainer second(config, kCpu);
    second.resume(nn::Checkpoint::newest(config.dir));
    int64_t again = -1;
    while (second.steps_done() < 24) again = second.step().distill_stopped;
    EXPECT_EQ(again, stopped) << cut;
    test::expect_equal_bits(test::state_bits(whole), test::state_bits(second));
    remove_tree(config.dir);
  }
}

}  // namespace
}  // namespace pyramoe
