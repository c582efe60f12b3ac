// What is read from run folders, and what is refused.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "report/run.h"
#include "tests/report/support.h"

namespace pyramoe {
namespace {

using report::read_run;
using report::RunReport;

TEST(ReportRun, ReadsWhatTheTrainerWrote) {
  const RunFolders runs;
  const RunReport moe = read_run(runs.moe);
  EXPECT_EQ(moe.name, "moe");
  EXPECT_EQ(moe.training.size(), 100u);
  ASSERT_EQ(moe.validation.size(), 1u);
  EXPECT_EQ(moe.validation[0].tokens, 10000);
  EXPECT_EQ(moe.tokens, 10000);
  EXPECT_EQ(moe.loss, 2.4);
  EXPECT_NEAR(moe.seconds, 10.0, 1e-9);
  EXPECT_EQ(moe.tokens_per_s, 1051);
  EXPECT_NEAR(moe.dropped, 0.25, 1e-12);
  EXPECT_EQ(moe.imbalance, 1.2);
  ASSERT_EQ(moe.domains.size(), 2u);
  EXPECT_EQ(moe.domains[1].name, "code");
  EXPECT_EQ(moe.domains[0].load[1][0], 200);
  EXPECT_GT(moe.cost.params_expert, 0);

  const RunReport dense = read_run(runs.dense + "/");
  EXPECT_EQ(dense.name, "dense");
  EXPECT_TRUE(std::isnan(dense.dropped));
  EXPECT_TRUE(dense.moe_layers.empty());
}

TEST(ReportRun, LivesWithoutAValidationAndWithNull) {
  const RunFolders runs;
  put_file(runs.dense + "/metrics.jsonl",
           "{\"step\":1,\"loss\":null,\"tokens\":100,\"tokens_per_s\":null}\n"
           "{\"step\":2,\"loss\":4.0,\"tokens\":200,\"tokens_per_s\":9.0}\n");
  std::filesystem::remove(runs.dense + "/eval.json");
  const RunReport run = read_run(runs.dense);
  ASSERT_EQ(run.training.size(), 2u);
  EXPECT_TRUE(std::isnan(run.training[0].loss));
  EXPECT_TRUE(std::isnan(run.loss));
  EXPECT_EQ(run.tokens_per_s, 9.0);
}

TEST(ReportRun, LeavesOutALineThatIsStillBeingWritten) {
  const RunFolders runs;
  put_file(runs.dense + "/metrics.jsonl", metrics(3, 1.0, false) + "{\"step\":4,\"lo");
  EXPECT_EQ(read_run(runs.dense).training.size(), 3u);
}

TEST(ReportRun, GivesRunsOfEqualNamesTheirFolders) {
  const RunFolders runs;
  std::vector<RunReport> twice = {read_run(runs.dense), read_run(runs.dense), read_run(runs.moe)};
  report::tell_apart(twice);
  EXPECT_EQ(twice[0].name, runs.dense);
  EXPECT_EQ(twice[2].name, "moe");
}

struct Damage {
  const char* what;
  const char* file;  // of the moe run
  std::string text;  // nullptr-like "" removes the file
  Exit code;
  const char* message;
};

class ReportDamage : public testing::TestWithParam<Damage> {};

TEST_P(ReportDamage, IsRefusedWithItsPlace) {
  const RunFolders runs;
  const Damage& damage = GetParam();
  const std::string path = runs.moe + "/" + damage.file;
  if (damage.text.empty()) {
    std::filesystem::remove(path);
  } else {
    put_file(path, damage.text);
  }
  try {
    read_run(runs.moe);
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), damage.code) << error.what();
    EXPECT_NE(std::string(error.what()).find(damage.message), std::string::npos) << error.what();
  }
}

const std::string kGoodLine = "{\"step\":1,\"loss\":4.0,\"tokens\":100,\"tokens_per_s\":9.0}\n";

INSTANTIATE_TEST_SUITE_P(
    Files, ReportDamage,
    testing::Values(
        Damage{"no config", "config.toml", "", Exit::checkpoint, "no run folder"},
        Damage{"no metrics", "metrics.jsonl", "", Exit::checkpoint, "train it first"},
        Damage{"config unknown key", "config.toml", "model.layerz = 3\n", Exit::data, "layers"},
        Damage{"cut line", "metrics.jsonl", kGoodLine + "{\"step\":2,\n" + kGoodLine, Exit::data,
               "metrics.jsonl, line 2"},
        Damage{"zero bytes", "metrics.jsonl", kGoodLine + std::string(40, '\0') + "\n", Exit::data,
               "line 2"},
        Damage{"no number", "metrics.jsonl",
               "{\"step\":1,\"loss\":\"low\",\"tokens\":1,\"tokens_per_s\":1}\n", Exit::data,
               "loss"},
        Damage{"no tokens", "metrics.jsonl", "{\"step\":1,\"loss\":4.0}\n", Exit::data, "tokens"},
        Damage{"negative", "metrics.jsonl",
               "{\"step\":-1,\"loss\":4.0,\"tokens\":1,\"tokens_per_s\":1}\n", Exit::data,
               "negative"},
        Damage{"eval cut", "eval.json", "{\"loss\":2.4,", Exit::data, "eval.json"},
        Damage{"eval list", "eval.json", "[]", Exit::data, "eval.json"},
        Damage{"eval without loss", "eval.json", "{\"step\":1}", Exit::data, "loss"},
        Damage{"domain no object", "eval.json", "{\"loss\":2,\"domains\":{\"a\":3}}", Exit::data,
               "\"a\""},
        Damage{"domains no object", "eval.json", "{\"loss\":2,\"domains\":[1]}", Exit::data,
               "domains"},
        Damage{"layer is dense", "eval.json", "{\"loss\":2,\"moe_layers\":[0]}", Exit::data,
               "no experts"},
        Damage{"layer is none", "eval.json", "{\"loss\":2,\"moe_layers\":[4]}", Exit::data,
               "no experts"},
        Damage{"load of other width", "eval.json",
               "{\"loss\":2,\"moe_layers\":[1],\"domains\":{\"a\":{\"loss\":1,\"load\":[[1]]}}}",
               Exit::data, "2 counts"},
        Damage{"load of other depth", "eval.json",
               "{\"loss\":2,\"moe_layers\":[1],\"domains\":{\"a\":{\"loss\":1,\"load\":[]}}}",
               Exit::data, "a list for each"},
        Damage{"load negative", "eval.json",
               "{\"loss\":2,\"moe_layers\":[1],\"domains\":{\"a\":{\"loss\":1,\"load\":[[1,-2]]}}}",
               Exit::data, "counts"}),
    [](const testing::TestParamInfo<Damage>& damage) {
      std::string name = damage.param.what;
      for (char& c : name) {
        if (c == ' ') c = '_';
      }
      return name;
    });

TEST(ReportRun, RefusesAFolderThatIsNone) {
  try {
    read_run("/nowhere/at/all");
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::checkpoint);
  }
}

}  // namespace
}  // namespace pyramoe
