// Damaged checkpoints: every truncation and every flipped bit is noticed before a weight is used,
// and a run falls back to its previous checkpoint and says so.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "core/crc32c.h"
#include "nn/checkpoint.h"
#include "tests/cli/support.h"

namespace pyramoe {
namespace {

using test::Outcome;
using test::Scratch;

// "" when the checkpoint opens, else what is said; anything but Error(checkpoint) fails the test.
std::string opened(const std::string& folder) {
  try {
    nn::Checkpoint::open(folder);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::checkpoint) << error.what();
    return error.what();
  }
  return "";
}

class CheckpointDamage : public testing::Test {
 protected:
  void SetUp() override {
    config_ = test::tiny_config(scratch_);
    const Outcome outcome =
        test::run_program(test::train_command(config_, scratch_ / "whole", {"train.keep_last=2"}));
    ASSERT_EQ(outcome.code, 0) << outcome.text;
    folder_ = test::checkpoint_folder(scratch_ / "whole", 6);
    ASSERT_EQ(opened(folder_), "");
    files_ = test::files_below(folder_);
    ASSERT_EQ(files_.size(), 5u);
  }

  // Puts `bytes` in the place of a file, looks, and puts the file back.
  void expect_noticed(const std::string& name, const std::string& good, const std::string& bytes,
                      const std::string& what) {
    test::put(folder_ + "/" + name, bytes);
    const std::string said = opened(folder_);
    if (said.empty()) ADD_FAILURE() << name << ": " << what << " was not noticed";
    if (said.find(name) == std::string::npos) {
      ADD_FAILURE() << name << ": " << what << " is blamed on another file: " << said;
    }
    test::put(folder_ + "/" + name, good);
  }

  Scratch scratch_;
  std::string config_, folder_;
  std::vector<std::string> files_;
};

TEST_F(CheckpointDamage, EveryTruncationIsNoticed) {
  for (const std::string& name : files_) {
    const std::string good = test::get(folder_ + "/" + name);
    const size_t stride = test::campaign() ? 1 : 1 + good.size() / 1000;
    for (size_t length = 0; length < good.size(); length += stride) {
      expect_noticed(name, good, good.substr(0, length), cat("cut to ", length));
    }
    expect_noticed(name, good, good + '\0', "a byte too many");
    expect_noticed(name, good, good + "\n", "a line end too many");
  }
  EXPECT_EQ(opened(folder_), "");
}

TEST_F(CheckpointDamage, EveryFlippedBitIsNoticed) {
  std::mt19937_64 random(7);
  int64_t flips = 0, size = 0;
  for (const std::string& name : files_) {
    const std::string good = test::get(folder_ + "/" + name);
    const auto bits = static_cast<int64_t>(good.size()) * 8;
    size += bits;
    const int64_t tries = test::campaign() ? bits : std::min<int64_t>(bits, 500);
    for (int64_t i = 0; i < tries; ++i) {
      const auto bit = static_cast<size_t>(
          tries == bits ? i : static_cast<int64_t>(random() % static_cast<uint64_t>(bits)));
      std::string bad = good;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
      expect_noticed(name, good, bad, cat("bit ", bit, " flipped"));
      ++flips;
    }
  }
  EXPECT_EQ(opened(folder_), "");
  std::printf("%lld of %lld bits flipped, each noticed\n", static_cast<long long>(flips),
              static_cast<long long>(size));
}

// A manifest with a right checksum of its own.
std::string manifest(const std::string& lines) {
  char end[16];
  std::snprintf(end, sizeof end, "%08x", crc32c(lines.data(), lines.size()));
  return lines + "end crc32c " + end + "\n";
}

struct Damage {
  const char* name;
  const char* words;  // what the run says about it
  std::function<void(const std::string& newest, const std::string& older)> apply;
};

const std::vector<Damage>& damages() {
  using test::get, test::put;
  static const std::vector<Damage> all = {
      {"bit of a weight", "has checksum",
       [](const std::string& at, const std::string&) {
         std::string bytes = get(at + "/model.safetensors");
         bytes[bytes.size() - 5] = static_cast<char>(bytes[bytes.size() - 5] ^ 16);
         put(at + "/model.safetensors", bytes);
       }},
      {"moments cut short", "optimizer.safetensors: has",
       [](const std::string& at, const std::string&) {
         put(at + "/optimizer.safetensors", get(at + "/optimizer.safetensors").substr(0, 900));
       }},
      {"empty weights", "model.safetensors: has 0 bytes",
       [](const std::string& at, const std::string&) { put(at + "/model.safetensors", ""); }},
      {"missing weights", "cannot open",
       [](const std::string& at, const std::string&) {
         test::remove_all(at + "/model.safetensors");
       }},
      {"missing state", "state.json",
       [](const std::string& at, const std::string&) { test::remove_all(at + "/state.json"); }},
      {"missing manifest", "MANIFEST",
       [](const std::string& at, const std::string&) { test::remove_all(at + "/MANIFEST"); }},
      {"empty manifest", "does not end with its own checksum",
       [](const std::string& at, const std::string&) { put(at + "/MANIFEST", ""); }},
      {"garbage in the manifest", "does not end with its own checksum",
       [](const std::string& at, const std::string&) {
         put(at + "/MANIFEST", std::string(3000, '\xa5'));
       }},
      {"manifest without files", "does not list model.safetensors",
       [](const std::string& at, const std::string&) {
         put(at + "/MANIFEST", manifest("pyramoe checkpoint 1\nstep 6\n"));
       }},
      {"manifest that leaves its folder", "names a file in another folder",
       [](const std::string& at, const std::string&) {
         put(at + "/MANIFEST",
             manifest("pyramoe checkpoint 1\nstep 6\nfile ../../../x 1 crc32c 00000000\n"));
       }},
      {"a later version", "written by another version",
       [](const std::string& at, const std::string&) {
         put(at + "/MANIFEST", manifest("pyramoe checkpoint 2\nstep 6\n"));
       }},
      {"weights of another step", "has checksum",
       [](const std::string& at, const std::string& older) {
         put(at + "/model.safetensors", get(older + "/model.safetensors"));
       }},
      {"state of another step", "has checksum",
       [](const std::string& at, const std::string& older) {
         put(at + "/state.json", get(older + "/state.json"));
       }},
      {"manifest of another step", "has checksum",
       [](const std::string& at, const std::string& older) {
         put(at + "/MANIFEST", get(older + "/MANIFEST"));
       }},
      {"an empty folder", "MANIFEST",
       [](const std::string& at, const std::string&) {
         for (const std::string& name : test::files_below(at)) test::remove_all(at + "/" + name);
       }},
      {"a file in its place", "no such checkpoint folder",
       [](const std::string& at, const std::string&) {
         test::remove_all(at);
         put(at, "not a folder");
       }},
  };
  return all;
}

TEST_F(CheckpointDamage, TheRunFallsBackAndSaysSo) {
  const std::string expected = test::state_of(scratch_ / "whole", 6);
  for (const Damage& damage : damages()) {
    const std::string dir = scratch_ / "run";
    test::copy_tree(scratch_ / "whole", dir);
    damage.apply(test::checkpoint_folder(dir, 6), test::checkpoint_folder(dir, 4));
    const Outcome outcome = test::run_program(test::train_command(config_, dir));
    EXPECT_EQ(outcome.code, 0) << damage.name << "\n" << outcome.text;
    EXPECT_TRUE(outcome.says("skipped a checkpoint: ")) << damage.name << "\n" << outcome.text;
    EXPECT_TRUE(outcome.says(damage.words)) << damage.name << "\n" << outcome.text;
    EXPECT_TRUE(outcome.says("resumed from " + test::checkpoint_folder(dir, 4))) << damage.name;
    EXPECT_TRUE(test::state_of(dir, 6) == expected) << damage.name << ": other bits";
    test::remove_all(dir);
  }
}

TEST_F(CheckpointDamage, WithoutAnIntactCheckpointNothingIsTouched) {
  const std::string dir = scratch_ / "whole";
  for (const int64_t step : {4, 6}) {
    test::put(test::checkpoint_folder(dir, step) + "/state.json", "{}");
  }
  const std::vector<std::string> before = test::files_below(dir);
  for (const std::vector<std::string>& command : {test::train_command(config_, dir),
                                                  {"generate", dir},
                                                  {"inspect", dir},
                                                  {"export", dir, "--hf", scratch_ / "hf"}}) {
    const Outcome outcome = test::run_program(command);
    EXPECT_EQ(outcome.code, 4) << command[0] << outcome.text;
    EXPECT_TRUE(outcome.says("none of its 2 checkpoints is intact")) << outcome.text;
  }
  EXPECT_EQ(test::files_below(dir), before);
}

// A damaged checkpoint of a later step must not count as one that is kept.
TEST_F(CheckpointDamage, ARunThatFellBackKeepsWhatItSaves) {
  const std::string dir = scratch_ / "whole";
  test::put(test::checkpoint_folder(dir, 6) + "/state.json", "{}");
  const std::vector<std::string> more = {"train.keep_last=1", "train.save_every=1",
                                         "train.max_skips=0"};
  test::Launch launch;
  for (int64_t n = 40;; n += 5) {  // killed in step 5 or after it
    launch.environment = {{"PYRAMOE_FAULT", cat("kill@", n)}};
    const Outcome outcome = test::run_program(test::train_command(config_, dir, more), launch);
    EXPECT_GE(nn::Checkpoint::newest(dir).step(), 4) << n << outcome.text;
    if (outcome.code == 0 || test::there(test::checkpoint_folder(dir, 5))) break;
  }
  EXPECT_EQ(nn::Checkpoint::newest(dir).step(), 5);
}

TEST_F(CheckpointDamage, WhatInterruptedWritesLeftIsCleanedAtTheNextStart) {
  const std::string dir = scratch_ / "whole";
  test::copy_tree(test::checkpoint_folder(dir, 6), test::checkpoint_folder(dir, 8) + ".tmp-1-0");
  test::put(dir + "/config.toml.tmp-77-3", "half");
  test::put(dir + "/checkpoints/.tmp-5", "");
  ASSERT_EQ(test::leftovers(dir).size(), 3u);
  EXPECT_EQ(nn::Checkpoint::newest(dir).step(), 6) << "a leftover was taken for a checkpoint";
  const Outcome outcome = test::run_program(test::train_command(config_, dir));
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_EQ(test::leftovers(dir), std::vector<std::string>{});
}

TEST_F(CheckpointDamage, ADamagedMetricsLogDoesNotStopTheRun) {
  const std::string dir = scratch_ / "whole", log = dir + "/metrics.jsonl";
  const std::string good = test::get(log);
  for (const std::string& bad :
       {std::string(64, '\0') + "\n", std::string("{\"step\": 1\n"), std::string("[]\n"),
        std::string("\xff\xfe\n"), std::string("3")}) {
    test::put(log, good + bad);
    const Outcome outcome = test::run_program(test::train_command(config_, dir));
    EXPECT_EQ(outcome.code, 0) << outcome.text;
    EXPECT_EQ(test::logged_steps(dir), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  }
}

TEST_F(CheckpointDamage, AnotherModelsRunFolderIsRefused) {
  const std::string dir = scratch_ / "whole";
  const std::vector<std::pair<const char*, const char*>> rows = {
      {"model.layers=4", "checkpoint of another model"},
      {"moe.top_k=2", "checkpoint of another model"},
      {"train.optimizer=sgd", "was trained with adamw"},
      {"train.dtype=bf16", "was trained with adamw in f32"},
      {"train.batch=8", "train.batch or its ramp"},
  };
  for (const auto& [setting, words] : rows) {
    std::vector<std::string> more = {setting};
    if (std::string(setting) == "model.layers=4") more.push_back("moe.experts=0 2 0 2");
    const Outcome outcome = test::run_program(test::train_command(config_, dir, more));
    EXPECT_EQ(outcome.code, 2) << setting << outcome.text;
    EXPECT_TRUE(outcome.says(words)) << setting << outcome.text;
    EXPECT_EQ(nn::Checkpoint::newest(dir).step(), 6);
  }
}

}  // namespace
}  // namespace pyramoe
