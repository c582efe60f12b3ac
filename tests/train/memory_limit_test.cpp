// train.memory_limit: steps stay under it with as few recomputed blocks as that takes, it changes
// no bit, and a limit that cannot be kept is refused with what to change.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/train/support.h"
#include "train/memory_plan.h"

namespace pyramoe {
namespace {

using train::bytes_of;

TEST(MemoryLimit, ReadsBytes) {
  EXPECT_EQ(bytes_of("0"), 0);
  EXPECT_EQ(bytes_of("123456"), 123456);
  EXPECT_EQ(bytes_of("60GB"), 60000000000);
  EXPECT_EQ(bytes_of("1.5 GB"), 1500000000);
  EXPECT_EQ(bytes_of("80GiB"), int64_t{80} << 30);
  EXPECT_EQ(bytes_of("512 MiB"), 512 << 20);
  EXPECT_EQ(bytes_of("7B"), 7);
  for (const char* bad : {"", "GB", "-1", "60 G", "60gb", "60GB ", "1e9", "nan", "9999999TB"}) {
    EXPECT_EQ(bytes_of(bad), -1) << bad;
  }
}

// Four blocks that keep 10 (2 when recomputed), and one, the third, that keeps 30.
train::StepMemory five_blocks() {
  train::StepMemory memory;
  memory.blocks = {{2, 10, 120}, {2, 10, 122}, {2, 30, 144}, {2, 10, 126}, {2, 10, 128}};
  memory.peak_of_loss = 140;
  return memory;
}

TEST(MemoryPlan, TheFewestBlocksThatSaveMostAreRecomputed) {
  const train::StepMemory memory = five_blocks();
  const std::vector<bool> none(5, false), all(5, true);
  EXPECT_EQ(memory.peak(all), 144);
  EXPECT_EQ(memory.peak(none), 140 + 4 * 8 + 28);
  EXPECT_EQ(train::recompute_first(memory, 1), (std::vector<bool>{0, 0, 1, 0, 0}));
  EXPECT_EQ(train::recompute_first(memory, 3), (std::vector<bool>{1, 1, 1, 0, 0}));
  // The third's own stage: 144, and what is kept in front of it.
  EXPECT_EQ(memory.peak({0, 0, 1, 0, 0}), std::max(140 + 32, 144 + 16));
  EXPECT_EQ(memory.peak_at_loss(none), 140 + 4 * 8 + 28);
  EXPECT_EQ(memory.peak_at_loss({0, 0, 1, 0, 0}), 140 + 32);
  EXPECT_EQ(memory.peak({1, 1, 1, 0, 0}), 140 + 16);
  const auto fewest = [&memory](int64_t bytes, int64_t most = 1000) {
    return train::fewest_recomputed(memory, bytes, most);
  };
  EXPECT_EQ(fewest(200), 0U);
  EXPECT_EQ(fewest(199), 1U);
  EXPECT_EQ(fewest(172), 1U);
  EXPECT_EQ(fewest(171), 2U);
  EXPECT_EQ(fewest(100), 5U);
  EXPECT_EQ(fewest(200, 199), 1U);
  EXPECT_EQ(fewest(200, 160), 3U);
}

train::RunConfig deep_config(const std::string& dir) {
  train::RunConfig config = test::small_config(dir);
  config.model.layers = 6;
  config.model.dim = 32;
  config.model.context = 32;
  config.model.experts = "0 4 0 4 0 4";
  config.train.batch = 16;
  config.train.micro_batch = 8;
  return config;
}

struct Taken {
  int64_t recomputed = 0, peak = 0;
  double losses = 0;  // added up
  test::Bits bits;
};
Taken take_steps(const train::RunConfig& config, int steps = 3) {
  train::Trainer trainer(config, kCpu);
  Taken taken;
  const std::string line = trainer.plan_memory();
  EXPECT_EQ(line.empty(), config.train.memory_limit == "0") << line;
  reset_device_peak_bytes(kCpu);
  for (int i = 0; i < steps; ++i) taken.losses += trainer.step().loss;
  taken.peak = device_peak_bytes(kCpu);
  for (const bool again : trainer.model().recomputed()) taken.recomputed += again;
  taken.bits = test::state_bits(trainer);
  return taken;
}

TEST(MemoryLimit, TheMeasuredPeakStaysBelowItAndNoBitChanges) {
  const test::ScratchFolder scratch;
  train::RunConfig config = deep_config(scratch.path("run"));
  const Taken kept = take_steps(config);
  ASSERT_EQ(kept.recomputed, 0);
  config.train.recompute = true;
  const Taken least = take_steps(config);
  ASSERT_EQ(least.recomputed, 6);
  ASSERT_LT(least.peak, kept.peak * 3 / 4) << "recomputing saves too little to test anything";
  config.train.recompute = false;
  const int64_t other = device_bytes(kCpu);  // of this test
  int64_t before = 6;
  std::set<int64_t> counts;
  for (int i = 0; i <= 10; ++i) {
    const int64_t room = least.peak + (kept.peak - least.peak) * i / 10;
    const int64_t limit = room * 50 / 49 + 64 + other;  // two in a hundred are left free
    config.train.memory_limit = std::to_string(limit);
    const Taken taken = take_steps(config);
    EXPECT_LE(taken.peak, limit) << i;
    EXPECT_LE(taken.recomputed, before) << "more room, more recomputed: " << i;
    counts.insert(before = taken.recomputed);
    EXPECT_EQ(kept.losses, taken.losses) << i;
    test::expect_equal_bits(kept.bits, taken.bits);
  }
  EXPECT_EQ(before, 0) << "with room for all, something is recomputed";
  EXPECT_GE(counts.size(), 5U) << "most numbers of blocks should occur";
}

// One block fewer would be too much: the plan is not merely safe.
TEST(MemoryLimit, FewerBlocksWouldNotFit) {
  const test::ScratchFolder scratch;
  train::RunConfig config = deep_config(scratch.path("run"));
  config.model.experts = "0";
  const int64_t none = take_steps(config).peak;
  config.train.recompute = true;
  const int64_t all = take_steps(config).peak;
  config.train.recompute = false;
  for (const int64_t percent : {20, 50, 80}) {
    const int64_t limit = all + (none - all) * percent / 100;
    config.train.memory_limit = std::to_string(limit * 50 / 49);
    const int64_t count = take_steps(config).recomputed;
    ASSERT_GT(count, 0) << percent;
    train::Trainer fewer(config, kCpu);
    fewer.plan_memory();
    std::vector<bool> blocks(6, false);
    std::fill_n(blocks.begin(), count - 1, true);
    fewer.model().recompute(blocks);
    reset_device_peak_bytes(kCpu);
    fewer.step();
    EXPECT_GT(device_peak_bytes(kCpu), limit * 98 / 100) << percent;
  }
}

TEST(MemoryLimit, ARunResumesUnderAnotherLimit) {
  const test::ScratchFolder scratch;
  train::RunConfig config = deep_config(scratch.path("run"));
  const Taken whole = take_steps(config, 6);
  config.train.memory_limit = std::to_string(whole.peak * 9 / 10);
  {
    train::Trainer first(config, kCpu);
    for (int i = 0; i < 3; ++i) first.step();
    EXPECT_NE(first.model().recomputed(), std::vector<bool>(6, false));
    first.save();
  }
  config.train.memory_limit = "1GB";
  train::Trainer second(config, kCpu);
  second.resume(nn::Checkpoint::newest(config.dir));
  for (int i = 0; i < 3; ++i) second.step();
  EXPECT_EQ(second.model().recomputed(), std::vector<bool>(6, false));
  test::expect_equal_bits(whole.bits, test::state_bits(second));
}

TEST(MemoryLimit, TooLittleIsRefusedWithWhatToChange) {
  const test::ScratchFolder scratch;
  train::RunConfig config = deep_config(scratch.path("run"));
  config.train.recompute = true;
  const int64_t least = take_steps(config).peak;
  for (const int64_t limit : {least * 9 / 10, least / 10}) {
    config.train.memory_limit = std::to_string(limit);
    train::Trainer trainer(config, kCpu);
    try {
      trainer.plan_memory();
      FAIL() << "a limit of " << limit << " was taken, where steps need " << least;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::memory);
      const std::string text = error.what();
      EXPECT_NE(text.find("train.memory_limit"), std::string::npos) << text;
      EXPECT_NE(text.find("train.micro_batch"), std::string::npos) << text;
    }
  }
}

}  // namespace
}  // namespace pyramoe
