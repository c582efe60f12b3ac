// What a run decides about itself is decided alike on any ranks: when the teacher has given what it
// has, and which experts merge and split. Against one rank, in f64, ZeRO and overlap included.
#include <cmath>
#include <filesystem>

#include "tests/dist/families.h"
#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using test::world;

// One line a step: loss, cosine, stop, experts of each block, moves.
struct Decisions {
  std::vector<double> numbers;
  std::vector<int64_t> choices;
};

Decisions decisions_of(train::RunConfig config, const dist::ProcessGroup& ranks) {
  config.train.micro_batch = 16 / ranks.size();
  const dist::Mesh mesh = train::make_mesh(ranks, config);
  train::Trainer trainer(config, kCpu, &mesh);
  Decisions all;
  while (trainer.steps_done() < 12) {
    const train::StepResult result = trainer.step();
    all.numbers.push_back(result.loss);
    if (std::isfinite(result.distill_cosine)) all.numbers.push_back(result.distill_cosine);
    all.choices.push_back(result.distill_stopped);
    all.choices.insert(all.choices.end(), result.live.begin(), result.live.end());
    for (const train::ExpertMove& move : result.moves) {
      for (const int64_t n :
           {move.merged_block, move.kept, move.freed, move.split_block, move.split, move.born}) {
        all.choices.push_back(n);
      }
    }
  }
  return all;
}

void expect_alike(const train::RunConfig& config) {
  const Decisions want = decisions_of(config, dist::ProcessGroup());
  for (const int64_t zero : {0, 1, 2}) {
    for (const bool overlap : {false, true}) {
      train::RunConfig many = config;
      many.parallel.expert = "1";
      many.parallel.zero = zero;
      many.parallel.overlap = overlap;
      const Decisions got = decisions_of(many, world());
      EXPECT_EQ(got.choices, want.choices) << "zero " << zero << ", overlap " << overlap;
      ASSERT_EQ(got.numbers.size(), want.numbers.size());
      for (size_t i = 0; i < want.numbers.size(); ++i) {
        EXPECT_NEAR(got.numbers[i], want.numbers[i], 1e-9);
      }
    }
  }
}

TEST(Decisions, ExpertsMoveAlike) {
  train::RunConfig config = test::family_config("top1", "");
  config.model.layers = 4;
  config.model.experts = "0 8 0 8";
  config.model.budget = 8;
  config.model.resize_every = 2;
  config.model.resize_moves = 2;
  config.model.resize_until = 1;
  const Decisions one = decisions_of(config, dist::ProcessGroup());
  EXPECT_GT(one.choices.size(), 12u * 5);  // some moved
  expect_alike(config);
}

TEST(Decisions, ExpertsThatLieOnSeveralRanksAreRefused) {
  if (world().size() == 1) GTEST_SKIP() << "one rank holds all experts";
  train::RunConfig config = test::family_config("top2", "");
  config.model.budget = 8;
  EXPECT_THROW(train::make_mesh(world(), config), Error);
}

// The student starts as a teacher who knows nothing, and leaves it.
TEST(Decisions, ATeacherIsLeftAlike) {
  const std::string teacher = (std::filesystem::temp_directory_path() /
                               cat("pyramoe_nothing_", world().size(), "_", ::getppid()))
                                  .string();
  train::RunConfig config = test::family_config("mos", "");
  config.distill = {};
  config.model.dropout = 0;
  config.train.lr = config.train.min_lr = 0.02;
  if (world().rank() == 0) {
    std::filesystem::remove_all(teacher);
    train::RunConfig start = config;
    start.dir = teacher;
    train::Trainer trainer(start, kCpu);
    trainer.save();
  }
  world().barrier();
  config.distill.teacher = teacher;
  config.distill.init = "teacher";
  config.distill.schedule = "auto";
  config.distill.check_every = config.distill.check_batches = config.distill.window = 2;
  EXPECT_GT(decisions_of(config, dist::ProcessGroup()).choices.back(), 0);  // it stopped
  expect_alike(config);
  world().barrier();
  if (world().rank() == 0) std::filesystem::remove_all(teacher);
}

}  // namespace
}  // namespace pyramoe
