// Bad settings: every key mistyped, of the wrong type and out of range; pairs that contradict each
// other. Each ends with exit code 2 and words that say what to do, before there is a run folder.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/cli/support.h"
#include "train/run_config.h"

namespace pyramoe {
namespace {

using test::Outcome;
using test::Scratch;

// What load_run_config says to a file with this text and these overrides; "" when it accepts.
std::string complaint(const Scratch& scratch, const std::string& toml,
                      const std::vector<std::string>& overrides = {}) {
  const std::string path = scratch / "bad.toml";
  test::put(path, toml);
  try {
    train::load_run_config(path, overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::config) << toml << error.what();
    return error.what();
  }
  return "";
}

void expect_words(const std::string& said, const std::string& words, const std::string& about) {
  EXPECT_NE(said.find(words), std::string::npos)
      << about << "\n  said:     " << (said.empty() ? "nothing" : said)
      << "\n  expected: " << words;
}

TEST(ConfigFaults, EveryMistypedKeyIsRefusedAndTheRightOneNamed) {
  const Scratch scratch;
  train::RunConfig config;
  const ConfigFields fields = config_fields(config);
  std::set<std::string> known;
  for (const ConfigField& field : fields.all()) known.insert(field.key);
  int64_t tried = 0;
  for (const std::string& key : known) {
    const size_t middle = (key.find('.') + 1 + key.size()) / 2;
    std::string doubled = key, swapped = key, longer = key + "x", upper = key;
    doubled.insert(middle, 1, key[middle]);
    std::swap(swapped[key.size() - 2], swapped[key.size() - 1]);
    upper[key.find('.') + 1] = static_cast<char>(std::toupper(upper[key.find('.') + 1]));
    for (const std::string& wrong : {doubled, swapped, longer, upper}) {
      if (known.count(wrong)) continue;
      const std::string in_file = complaint(scratch, wrong + " = 1\n");
      expect_words(in_file, wrong + " = 1: unknown key; did you mean", wrong);
      expect_words(in_file, key, wrong);
      expect_words(complaint(scratch, "", {wrong + "=1"}), "command line: " + wrong, wrong);
      ++tried;
    }
  }
  EXPECT_GE(tried, 4 * 70 - 10);
}

std::vector<std::string> wrong_types(const ConfigField& field) {
  struct Wrong {
    std::vector<std::string> operator()(bool*) { return {"1", "'true'", "0.5", "[true]"}; }
    std::vector<std::string> operator()(int64_t*) { return {"'4'", "4.0", "true", "[4]", "nan"}; }
    std::vector<std::string> operator()(double*) { return {"'0.5'", "true", "[0.5]"}; }
    std::vector<std::string> operator()(std::string*) { return {"0.5", "true", "['a']"}; }
    std::vector<std::string> operator()(std::vector<std::string>*) { return {"'a'", "1", "[1]"}; }
    std::vector<std::string> operator()(std::vector<double>*) { return {"1.0", "'a'", "['a']"}; }
    std::vector<std::string> operator()(std::vector<int64_t>*) { return {"1", "[0.5]"}; }
  };
  return std::visit(Wrong(), field.value);
}

TEST(ConfigFaults, EveryKeyRefusesValuesOfAnotherType) {
  const Scratch scratch;
  train::RunConfig config;
  const ConfigFields fields = config_fields(config);
  for (const ConfigField& field : fields.all()) {
    for (const std::string& value : wrong_types(field)) {
      const std::string line = field.key + " = " + value;
      const std::string said = complaint(scratch, "\n" + line + "\n");
      expect_words(said, "bad.toml:2: " + field.key + " = ", line);
      expect_words(said, "expected ", line);
      EXPECT_NE(said.find(", got "), std::string::npos) << line << said;
    }
    expect_words(complaint(scratch, field.key + " = 1979-05-27\n"), field.key, "a date");
    expect_words(complaint(scratch, "[" + field.key + "]\nx = 1\n"), "unknown key", "a table");
  }
}

// "between A and B" as numbers.
std::pair<long double, long double> range_of(const std::string& words) {
  const size_t both = words.find(" and ");
  return {std::stold(words.substr(8)), std::stold(words.substr(both + 5))};
}

TEST(ConfigFaults, EveryNumberHasARangeAndEveryChoiceAList) {
  const Scratch scratch;
  train::RunConfig config;
  int64_t rows = 0;
  const ConfigFields fields = config_fields(config);
  for (const ConfigField& field : fields.all()) {
    const bool whole = std::holds_alternative<int64_t*>(field.value);
    const bool real = std::holds_alternative<double*>(field.value);
    if (whole || real) {
      EXPECT_TRUE(
          std::any_of(field.rules.begin(), field.rules.end(),
                      [](const ConfigRule& rule) { return rule.words.starts_with("between "); }))
          << field.key << " has no lowest and highest value";
    }
    for (const ConfigRule& rule : field.rules) {
      std::vector<std::string> outside;
      if (rule.words.starts_with("between ")) {
        const auto [low, high] = range_of(rule.words);
        if (whole) {
          outside = {std::to_string(static_cast<int64_t>(low) - 1),
                     std::to_string(static_cast<int64_t>(high) + 1), "-9223372036854775808"};
        } else {
          outside = {
              cat(static_cast<double>(low) - 1e-3 - 1e-3 * std::fabs(static_cast<double>(low))),
              cat(static_cast<double>(high) * 1.01 + 1e-3),
              "nan",
              "inf",
              "-inf",
              "1e308"};
        }
      } else if (rule.words.starts_with("one of ")) {
        outside = {"'nonsense'", "''"};
      }
      for (const std::string& value : outside) {
        const std::string line = field.key + " = " + value;
        expect_words(complaint(scratch, line + "\n"), field.key + " = ", line);
        expect_words(complaint(scratch, line + "\n"), "must be ", line);
        ++rows;
      }
    }
  }
  EXPECT_GE(rows, 150);
}

struct Row {
  std::vector<std::string> settings;
  const char* words;
};

// Each contradicts a setting of the tiny config or another of its row.
const std::vector<Row>& contradictions() {
  static const std::vector<Row> rows = {
      {{"model.heads=3"}, "does not divide model.dim = 8; the nearest that do are 2 and 4"},
      {{"model.dim=9"}, "model.heads = 2 does not divide model.dim = 9"},
      {{"moe.top_k=3"}, "moe.top_k = 3 is more than the 2 experts of layer 1"},
      {{"moe.experts=0 2 2"}, "expands to 3 entries, model.layers = 2"},
      {{"moe.experts=(0 2"}, "moe.experts = \"(0 2\""},
      {{"moe.experts=0 -2"}, "moe.experts"},
      {{"moe.experts=(0 2)*99999999999"}, "moe.experts"},
      {{"moe.group=3"}, "must divide train.micro_batch = 2"},
      {{"moe.group=4"}, "the nearest is 2"},
      {{"train.micro_batch=3"}, "must divide train.batch = 4"},
      {{"train.micro_batch=8"}, "must divide train.batch = 4"},
      {{"train.ramp_start=3", "train.micro_batch=1"}, "must divide train.batch = 4"},
      {{"train.ramp_start=1", "train.ramp_tokens=64"}, "must be a multiple of train.micro_batch"},
      {{"train.ramp_tokens=64"}, "needs train.ramp_start"},
      {{"train.min_lr=1.0"}, "must not be above train.lr = 0.003"},
      {{"train.lr=1e-5"}, "train.min_lr"},
      {{"train.lr=1e30"}, "train.lr = 1e+30: must be between 0 and 100"},
      {{"train.decay_tokens=10", "train.warmup_tokens=10"}, "must be above train.warmup_tokens"},
      {{"train.steps=1099511627776", "model.context=16777216", "train.batch=16777216"},
       "more than can be counted"},
      {{"moe.dispatch=einsum", "moe.capacity_factor=0"}, "set moe.capacity_factor"},
      {{"distill.init=teacher"}, "needs distill.teacher"},
      {{"distill.student_layers=1"}, "needs distill.teacher"},
      {{"distill.beta=2"}, "without distill.teacher"},
      {{"distill.temperature=2"}, "without distill.teacher"},
      {{"distill.schedule=linear"}, "without distill.teacher"},
      {{"distill.stop_at=0.5"}, "without distill.teacher"},
      {{"moe.budget=2"}, "needs moe.gate = \"softmax\""},
      {{"moe.budget=2", "moe.gate=softmax", "train.optimizer=sgd"},
       "second moments say which experts matter"},
      {{"moe.budget=1000", "moe.gate=softmax"}, "slots (moe.experts)"},
      {{"distill.teacher=no_such", "distill.student_layers=1"}, "no_such/config.toml"},
      {{"init.from=a", "init.from_dense=b"}, "exclude each other"},
      {{"distill.teacher=t", "distill.init=teacher", "init.from=a"}, "exclude each other"},
      {{"data.sources=[\"a.tok\"]"}, "must be empty when data.synthetic is true"},
      {{"data.synthetic=false", "data.sources=[\"a.tok\"]", "data.weights=[0.5, 0.5]"},
       "must have one entry per data.sources (1)"},
      {{"data.synthetic=false", "data.sources=[\"a.tok\"]", "data.validation=[\"b\", \"c\"]"},
       "must name one file per data.sources (1)"},
      {{"data.synthetic=false", "data.sources=[\"a.tok\"]", "data.weights=[0]"}, "above 0"},
      {{"data.synthetic=false", "data.sources=[\"a.tok\"]", "data.weights=[nan]"},
       "must be a finite number"},
      {{"parallel.expert=many"}, "must be auto or a degree"},
      {{"parallel.zero=3"}, "must be between 0 and 2"},
      {{"model.layers=1000", "model.dim=1048576", "model.hidden=16777216", "moe.experts=0"},
       "model.dim"},
      {{"model.layers"}, "model.layers"},
      {{"=3"}, "=3"},
      {{"model.layers="}, "model.layers"},
  };
  return rows;
}

TEST(ConfigFaults, EveryContradictionIsSaid) {
  const Scratch scratch;
  const std::string good = test::get(test::tiny_config(scratch));
  EXPECT_EQ(complaint(scratch, good), "");
  for (const Row& row : contradictions()) {
    expect_words(complaint(scratch, good, row.settings), row.words, row.settings[0]);
  }
}

// As complaint(), by the program itself: exit code 2, no work, no folder.
void expect_refused(const Scratch& scratch, const std::vector<std::string>& arguments,
                    const std::string& words) {
  const Outcome outcome = test::run_program(arguments);
  EXPECT_EQ(outcome.code, 2) << words << "\n" << outcome.text;
  EXPECT_TRUE(outcome.says(words)) << words << "\n" << outcome.text;
  EXPECT_LT(outcome.cpu_seconds, 1.0);
  EXPECT_FALSE(test::there(scratch / "run")) << words << ": a run folder was made";
}

TEST(ConfigFaults, TheProgramRefusesBeforeAnyWork) {
  const Scratch scratch;
  const std::string config = test::tiny_config(scratch), dir = scratch / "run";
  const std::vector<Row> rows = {
      {{"model.layer=3"}, "unknown key; did you mean model.layers?"},
      {{"train.lr=fast"}, "expected a number, got a text"},
      {{"train.seed=-1"}, "must be between 0"},
      {{"model.heads=3"}, "does not divide model.dim"},
      {{"moe.top_k=3"}, "more than the 2 experts"},
      {{"moe.group=3"}, "must divide train.micro_batch"},
      {{"train.min_lr=1.0"}, "must not be above train.lr"},
      {{"moe.dispatch=einsum", "moe.capacity_factor=0"}, "set moe.capacity_factor"},
      {{"distill.beta=2"}, "without distill.teacher"},
      {{"init.from=a", "init.from_dense=b"}, "exclude each other"},
      {{"data.sources=[\"a.tok\"]"}, "must be empty when data.synthetic is true"},
      {{"data.synthetic=false"}, "data.sources is empty"},
      {{"parallel.data=2"}, "mpirun -np 2"},
      {{"parallel.tensor=2"}, "mpirun -np 2"},
      {{"parallel.expert=2"}, "the nearest that do: 1"},
      {{"parallel.expert_slice=2"}, "parallel.expert_slice = 2 does not divide"},
  };
  for (const Row& row : rows) {
    expect_refused(scratch, test::train_command(config, dir, row.settings), row.words);
  }
  expect_refused(scratch, {"train", scratch / "none.toml"}, "none.toml");
  expect_refused(scratch, {"train"}, "expected a config file");
  test::put(scratch / "a.toml", "include = [\"b.toml\"]\nrun.dir = \"" + dir + "\"\n");
  expect_refused(scratch, {"train", scratch / "a.toml"}, "b.toml");
  test::put(scratch / "b.toml", "include = [\"a.toml\"]\n");
  expect_refused(scratch, {"train", scratch / "a.toml"}, "include");
  test::put(scratch / "garbage.toml", std::string("\0\xff\x01 = [[[", 8));
  expect_refused(scratch, {"train", scratch / "garbage.toml"}, "garbage.toml");
  expect_refused(scratch, {"inspect", config, "model.heads=3"}, "does not divide model.dim");
  expect_refused(scratch, {"bench", "train", config, "model.heads=3"}, "does not divide model.dim");
}

TEST(ConfigFaults, SchedulerThatStartsManyTasksIsRefused) {
  const Scratch scratch;
  const Outcome outcome =
      test::run_program(test::train_command(test::tiny_config(scratch), scratch / "run"),
                        {.environment = {{"SLURM_NTASKS", "4"}}});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(outcome.says("SLURM_NTASKS = 4")) << outcome.text;
}

}  // namespace
}  // namespace pyramoe
