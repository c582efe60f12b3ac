// Schedules, plans of students and weights of distillation: pure functions, checked by hand.
#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "moe/distill_loss.h"
#include "moe/model_cost.h"
#include "moe/student.h"
#include "train/tensorboard.h"

namespace pyramoe {
namespace {

train::RunConfig plain() {
  train::RunConfig config;
  config.model.context = 10;
  config.train.batch = 8;
  config.train.steps = 100;  // 8000 tokens
  config.train.lr = 1.0;
  config.train.min_lr = 0.1;
  config.train.warmup_tokens = 800;
  return config;
}

TEST(Schedule, WarmsUpByTokensThenFallsToTheLeast) {
  const train::Schedule schedule(plain());
  EXPECT_EQ(schedule.total_tokens(), 8000);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(schedule.plan(0)), 0.1);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(schedule.plan(4)), 0.5);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(schedule.plan(9)), 1.0);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(schedule.plan(54)), 0.55);  // half way
  EXPECT_DOUBLE_EQ(schedule.learning_rate(schedule.plan(99)), 0.1);
  EXPECT_DOUBLE_EQ(schedule.progress(schedule.plan(50)), 0.5);
}

TEST(Schedule, LinearAndConstantAndAnEarlierEnd) {
  train::RunConfig config = plain();
  config.train.schedule = "linear";
  config.train.decay_tokens = 4400;
  const train::Schedule linear(config);
  EXPECT_DOUBLE_EQ(linear.learning_rate(linear.plan(32)), 1.0 - 0.9 * (2640.0 - 800) / 3600);
  EXPECT_DOUBLE_EQ(linear.learning_rate(linear.plan(60)), 0.1);
  config.train.schedule = "constant";
  const train::Schedule constant(config);
  EXPECT_DOUBLE_EQ(constant.learning_rate(constant.plan(99)), 1.0);
}

TEST(Schedule, TheBatchGrowsAndNoSequenceIsLostOrRepeated) {
  train::RunConfig config = plain();
  config.train.ramp_start = 2;
  config.train.ramp_tokens = 400;  // three increments of 100 tokens: 2, 4, 6, then 8
  const train::Schedule schedule(config);
  int64_t next = 0, last = 0;
  for (int64_t step = 0; step < config.train.steps; ++step) {
    const train::StepPlan plan = schedule.plan(step);
    EXPECT_EQ(plan.first_sequence, next);
    EXPECT_GE(plan.batch, last);
    EXPECT_EQ(plan.batch % 2, 0);
    next += plan.batch;
    last = plan.batch;
  }
  EXPECT_EQ(schedule.plan(0).batch, 2);
  EXPECT_EQ(last, 8);
  EXPECT_EQ(schedule.total_tokens(), next * 10);
}

TEST(Distill, WeightsOverARun) {
  EXPECT_EQ(moe::distill_weight("full", 0.7, 0.99), 1.0);
  EXPECT_EQ(moe::distill_weight("staged", 0.7, 0.699), 1.0);
  EXPECT_EQ(moe::distill_weight("staged", 0.7, 0.7), 0.0);
  EXPECT_DOUBLE_EQ(moe::distill_weight("linear", 0.5, 0.25), 0.5);
  EXPECT_DOUBLE_EQ(moe::distill_weight("cosine", 0.5, 0.25), 0.5);
  EXPECT_EQ(moe::distill_weight("cosine", 0.5, 0.0), 1.0);
  EXPECT_EQ(moe::distill_weight("linear", 0.5, 0.6), 0.0);
}

TEST(Student, ThePapersCutKeepsTheTopOfThePyramid) {
  moe::ModelConfig teacher;
  teacher.layers = 24;
  teacher.experts = "(0 32)*10 (0 64)*2";
  const moe::ModelConfig student = moe::student_config(teacher, 21);
  EXPECT_EQ(moe::expand_experts(student.experts, 21),
            moe::expand_experts("(0 32)*8 (0 64)*2 0", 21));
  EXPECT_THROW(moe::student_config(teacher, 25), Error);
}

TEST(Student, LayersMatchByKindAndCountAlignedToTheLast) {
  const auto plan = [](const std::string& text, int64_t layers) {
    moe::ModelConfig config;
    config.layers = layers;
    config.experts = text;
    return moe::layer_plan(config);
  };
  // Teacher: 0 4 0 4 0 8 0 8.  Student: 0 4 0 8 0 8, with one 16 that nobody can give.
  const std::vector<int64_t> from =
      moe::match_layers(plan("0 4 16 8 0 8", 6), plan("0 4 0 4 0 8 0 8", 8));
  EXPECT_EQ(from, (std::vector<int64_t>{4, 3, -1, 5, 6, 7}));
}

TEST(LayerPlan, TextsExpandAndMistakesAreNamed) {
  EXPECT_EQ(moe::expand_experts("3", 2), (std::vector<int64_t>{3, 3}));
  EXPECT_EQ(moe::expand_experts("(0 (4)*2)*2 8", 7), (std::vector<int64_t>{0, 4, 4, 0, 4, 4, 8}));
  for (const char* wrong : {"", "(0 4", "0 4)", "0 4*", "x", "4*99999999", "-1", "0 4 0"}) {
    try {
      moe::expand_experts(wrong, 2);
      ADD_FAILURE() << wrong << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::config);
      EXPECT_NE(std::string(error.what()).find("moe.experts"), std::string::npos);
    }
  }
}

// The paper's sizes to three digits (paper section 4, recomputed from its formula).
TEST(ModelCost, ReproducesThePapersSizes) {
  const std::vector<std::pair<const char*, double>> rows = {
      {"350m", 0.356},        {"1.3b", 1.315},           {"6.7b", 6.657},
      {"350m_moe32", 3.48},   {"350m_moe128", 13.14},    {"1.3b_moe128", 52.46},
      {"350m_pyramid", 4.01}, {"350m_residual32", 3.58}, {"350m_pr_moe", 4.11},
      {"1.3b_pr_moe", 31.38}, {"350m_mos", 3.54},        {"1.3b_mos", 26.94}};
  for (const auto& [name, billions] : rows) {
    const train::RunConfig config = train::load_run_config(
        std::string(PYRAMOE_SOURCE_DIR) + "/experiments/base/" + name + ".toml", {});
    const moe::ModelCost cost = moe::model_cost(config.model, DType::bf16);
    const double got = static_cast<double>(cost.params_total) * 1e-9;
    // Equal when both are rounded to three digits.
    const double unit = std::pow(10.0, std::floor(std::log10(billions)) - 2);
    EXPECT_EQ(std::round(got / unit), std::round(billions / unit)) << name << ": " << got;
  }
}

TEST(TensorBoard, RecordsHaveTheKnownBytes) {
  // A record of "abc": length, masked CRC of the length, the bytes, masked CRC of the bytes.
  const std::string record = train::event_record("abc");
  ASSERT_EQ(record.size(), 8u + 4 + 3 + 4);
  EXPECT_EQ(record.substr(0, 8), std::string("\x03\0\0\0\0\0\0\0", 8));
  const std::string event = train::scalar_event("a", 300, 1.5, 2.0);
  EXPECT_EQ(event, std::string("\x09\0\0\0\0\0\0\0\x40\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01"
                               "a\x15\0\0\xc0\x3f",
                               24));
}

}  // namespace
}  // namespace pyramoe
