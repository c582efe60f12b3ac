// What a reader may conclude from a run folder while the run goes on, or after it was killed: a row
// of validation in metrics.jsonl says that the eval.json of that step is there.
#include <gtest/gtest.h>

#include <sstream>

#include "core/file.h"
#include "core/file_ops.h"
#include "core/json.h"
#include "tests/train/support.h"
#include "train/run.h"

namespace pyramoe {
namespace {

// The step of eval.json before each write to metrics.jsonl; -1 while there is none.
class EvalBeforeRows {
 public:
  explicit EvalBeforeRows(const std::string& dir) {
    observe_operations([this, dir](const char* verb, const std::string& path, const std::string&) {
      if (std::string(verb) != "write" || path != dir + "/metrics.jsonl") return;
      const std::string eval = dir + "/eval.json";
      steps.push_back(path_exists(eval) ? Json::parse(read_file(eval))["step"].get<int64_t>() : -1);
    });
  }
  ~EvalBeforeRows() { observe_operations({}); }
  std::vector<int64_t> steps;
};

TEST(RunFolder, AValidationsRowComesAfterItsEvalJson) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("run"));
  config.train.eval_every = 5;
  config.train.eval_sequences = 2;
  const EvalBeforeRows eval(config.dir);
  train::run_training(config, kCpu);
  std::istringstream text(read_file(config.dir + "/metrics.jsonl"));
  std::vector<Json> rows;
  for (std::string line; std::getline(text, line);) rows.push_back(Json::parse(line));
  ASSERT_EQ(rows.size(), eval.steps.size()) << "a row is one write";
  std::vector<int64_t> validated;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].contains("val_loss")) continue;
    validated.push_back(rows[i]["step"].get<int64_t>());
    EXPECT_EQ(eval.steps[i], validated.back()) << "row " << i + 1 << " of metrics.jsonl";
  }
  EXPECT_EQ(validated, (std::vector<int64_t>{5, 10, 12}));
}

// Somebody starts a finished run again, or it was stopped in its last validation.
TEST(RunFolder, AFinishedRunStartedAgainWritesWhatIsThere) {
  const test::ScratchFolder scratch;
  train::RunConfig config = test::small_config(scratch.path("run"));
  config.train.eval_every = 4;
  config.train.eval_sequences = 2;
  train::run_training(config, kCpu);
  std::map<std::string, std::string> before;
  for (const char* name : {"/metrics.jsonl", "/metrics.csv", "/eval.json", "/routing.jsonl"}) {
    before[name] = read_file(config.dir + name);
  }
  const Json eval = Json::parse(before["/eval.json"]);
  EXPECT_GT(eval["dropped"].get<double>(), 0);
  EXPECT_GT(eval["imbalance"].get<double>(), 1);
  train::run_training(config, kCpu);
  for (const auto& [name, text] : before) EXPECT_EQ(read_file(config.dir + name), text) << name;
  config.train.steps += 4;  // the validation of step 12 is not the last one now
  train::run_training(config, kCpu);
  EXPECT_TRUE(read_file(config.dir + "/metrics.jsonl").starts_with(before["/metrics.jsonl"]));
  EXPECT_TRUE(read_file(config.dir + "/metrics.csv").starts_with(before["/metrics.csv"]));
}

}  // namespace
}  // namespace pyramoe
