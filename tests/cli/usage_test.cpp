// The command line in wrong hands: runs that are not there, prompts of any kind, options out of
// range. The right exit code, a message that says what to do, and help that lists every option.
#include <gtest/gtest.h>

#include "tests/cli/support.h"

namespace pyramoe {
namespace {

using test::Outcome;
using test::Scratch;

class Usage : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch_ = new Scratch;
    config_ = test::tiny_config(*scratch_);
    run_ = *scratch_ / "run";
    const Outcome outcome = test::run_program(test::train_command(config_, run_));
    ASSERT_EQ(outcome.code, 0) << outcome.text;
    bare_ = *scratch_ / "bare";  // a run folder that has no checkpoint
    test::copy_tree(run_, bare_);
    test::remove_all(bare_ + "/checkpoints");
  }
  static void TearDownTestSuite() { delete scratch_; }

  static void expect(int code, const std::string& words, const std::vector<std::string>& command) {
    const Outcome outcome = test::run_program(command);
    std::string line;
    for (const std::string& word : command) line += word + " ";
    EXPECT_EQ(outcome.code, code) << line << "\nsignal " << outcome.signal << " " << outcome.text;
    EXPECT_TRUE(outcome.says(words)) << line << "\nexpected " << words << ", got " << outcome.text;
  }

  static Scratch* scratch_;
  static std::string config_, run_, bare_;
};
Scratch* Usage::scratch_ = nullptr;
std::string Usage::config_, Usage::run_, Usage::bare_;

TEST_F(Usage, RunsThatAreNotThere) {
  const std::string none = *scratch_ / "none", out = *scratch_ / "out";
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"generate", none},
                                             {"export", none, "--hf", out},
                                             {"generate", bare_},
                                             {"inspect", bare_},
                                             {"export", bare_, "--hf", out}}) {
    expect(4, command[1] == none ? "no such run" : "no checkpoint under", command);
  }
  expect(2, "none", {"inspect", none});
  expect(4, "is no run folder", {"report", none});
  expect(4, "config.json", {"import", "--hf", none, out});
  expect(3, "none", {"tokenize", "--bytes", "--jsonl", none});
  EXPECT_FALSE(test::there(out));
  const std::string tasks = *scratch_ / "tasks";
  test::put(tasks, "");
  expect(3, "lambada_openai", {"eval", run_, "--tasks", "lambada_openai", "--data", none});
}

TEST_F(Usage, Prompts) {
  const auto generate = [&](const std::string& prompt) {
    return test::run_program({"generate", run_, "--prompt", prompt, "--tokens", "4"});
  };
  // Context is 8: empty, one, all but one, all, one more, many.
  for (const size_t length : {0, 1, 7, 8, 9, 100}) {
    const Outcome outcome = generate(std::string(length, 'a'));
    EXPECT_EQ(outcome.code, 0) << length << outcome.text;
    EXPECT_TRUE(outcome.says(std::string(length, 'a'))) << outcome.text;
  }
  EXPECT_EQ(generate("\xff\xfe\xc3").code, 0);
  EXPECT_EQ(generate("\xed\xa0\x80").code, 0);
  expect(3, "none", {"generate", run_, "--prompt", "FILE:" + (*scratch_ / "none")});
  expect(0, "ab", {"generate", run_, "--prompt", "ab", "--tokens", "0"});
  expect(0, "", {"generate", run_, "--tokens", "4", "--top-k", "1000000000"});
  expect(0, "", {"generate", run_, "--tokens", "4", "--top-k", "0"});
  expect(0, "", {"generate", run_, "--tokens", "4", "--temperature", "0"});
}

TEST_F(Usage, OptionsOutOfRange) {
  const std::vector<std::pair<std::vector<std::string>, const char*>> generate = {
      {{"--tokens", "-1"}, "tokens: expected >= 0, got -1"},
      {{"--tokens", "many"}, "--tokens"},
      {{"--temperature", "-1"}, "temperature: expected a number >= 0"},
      {{"--temperature", "nan"}, "temperature: expected a number >= 0"},
      {{"--temperature", "inf"}, "temperature: expected a number >= 0"},
      {{"--top-k", "-1"}, "top-k: expected >= 0"},
      {{"--top-p", "0"}, "top-p: expected a share in (0, 1]"},
      {{"--top-p", "1.5"}, "top-p: expected a share in (0, 1]"},
      {{"--top-p", "nan"}, "top-p: expected a share in (0, 1]"},
      {{"--samples", "0"}, "--samples: expected >= 1"},
      {{"--stop", ""}, "stop"},
      {{"--dtype", "f16"}, "expected f32, bf16 or f64"},
      {{"--device", "cuda"}, "this build has no CUDA"},
      {{"--device", "tpu"}, "expected cpu, cuda"},
      {{"--show-experts", "9"}, "9"},
      {{"--no-such-option"}, "--no-such-option"},
  };
  for (const auto& [options, words] : generate) {
    std::vector<std::string> command = {"generate", run_, "--prompt", "a"};
    command.insert(command.end(), options.begin(), options.end());
    expect(2, words, command);
  }
  expect(2, "there is no subcommand \"trian\"", {"trian", config_});
  expect(2, "there is no subcommand \"bench trian\"; pyramoe bench --help", {"bench", "trian"});
  expect(2, "A subcommand is required", {});
  expect(2, "key=value, without dashes", {"train", config_, "--train.steps=3"});
  expect(2, "key=value, without dashes", {"bench", "train", config_, "--batch_size", "3"});
  expect(2, "this build has no CUDA", {"train", config_, "--device", "cuda"});
  expect(2, "this build has no CUDA", {"bench", "train", config_, "--device", "cuda"});
  expect(2, "there is no task \"hellaswag\"",
         {"eval", run_, "--tasks", "hellaswag", "--data", *scratch_ / "x"});
  expect(2, "expected --tasks", {"eval", run_});
  expect(2, "needs --data", {"eval", run_, "--tasks", "piqa"});
  expect(2, "--hf", {"export", run_});
  expect(2, "", {"report"});
  expect(2, "--check is of experiments", {"report", run_, "--check"});
  const std::string experiments = std::string(PYRAMOE_SOURCE_DIR) + "/experiments";
  for (const char* option : {"--json", "--no-svg", "--svg=x.svg"}) {
    expect(2, "is of runs", {"report", experiments, option});
  }
  expect(2, "name one tokenizer", {"tokenize"});
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"bench", "layer", "--tokens", "0"},
           {"bench", "layer", "--d", "0"},
           {"bench", "layer", "--experts", "-1"},
           {"bench", "layer", "--top-k", "0"},
           {"bench", "layer", "--hidden", "-1"},
           {"bench", "layer", "--capacity", "-1"},
           {"bench", "layer", "--skew", "odd"},
           {"bench", "layer", "--skew", "one", "--experts", "0"},
           {"bench", "layer", "--skew", "zipf", "--experts", "8", "--d", "4"},
           {"bench", "layer", "--dtype", "f16"},
           {"bench", "layer", "--steps", "0"},
           {"bench", "decode", config_, "--batch", "0"},
           {"bench", "decode", config_, "--context", "1"},
           {"bench", "decode", config_, "--context", "9"},
           {"bench", "train", config_, "--steps", "0"}}) {
    expect(2, "", command);
  }
}

TEST_F(Usage, WhatWouldBePassedOverIsRefused) {
  const std::string file = *scratch_ / "file";
  expect(2, "--tasks is of tasks", {"eval", run_, "--loss", "--tasks", "piqa"});
  expect(2, "--output-path is of tasks", {"eval", run_, "--loss", "--output-path", file});
  expect(2, "--source is of --loss", {"eval", run_, "--tasks", "piqa", "--source", file});
  expect(2, "--limit: expected >= 0", {"eval", run_, "--loss", "--limit", "-3"});
  expect(2, "is a run, whose settings", {"inspect", run_, "model.dim=8"});
  expect(2, "--tensors lists a run's", {"inspect", config_, "--tensors"});
  expect(2, "--json", {"inspect", run_, "--tensors", "--json"});
  expect(2, "--out is of --routing", {"report", run_, "--out", file});
  expect(2, "--json is of comparisons", {"report", run_, "--routing", "--json"});
  expect(2, "--check is of experiments", {"report", run_, "--routing", "--check"});
  const Outcome outcome = test::run_program({"generate", run_, "--prompt", "abc", "--stop", ""});
  EXPECT_FALSE(outcome.says("abc")) << outcome.text;  // not a word before the error
}

// What an unset variable of the shell leaves. As a folder it would be the root.
TEST_F(Usage, EmptyNamesAreRefused) {
  const std::string experiments = std::string(PYRAMOE_SOURCE_DIR) + "/experiments";
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"train", experiments + "/base/tiny_pr_moe.toml", "run.dir="},
           {"export", run_, "--hf", ""},
           {"import", "--hf", run_, ""},
           {"inspect", ""},
           {"tokenize", "train", config_, "--out", ""},
           {"tokenize", "prepare", config_, "--bytes", "--out", ""},
           {"experiment", "run", experiments + "/gating", "--scale=smoke", "--runs", ""}}) {
    test::Launch nobody;  // who could not write there
    nobody.as_nobody = true;
    const Outcome outcome = test::run_program(command, nobody);
    EXPECT_EQ(outcome.code, 2) << command[0] << "\n" << outcome.text;
    EXPECT_TRUE(outcome.says("got an empty name") || outcome.says("must name a folder"))
        << command[0] << "\n"
        << outcome.text;
  }
}

TEST_F(Usage, GoingOnSaysWhatChangedAndWhetherAnythingIsLeft) {
  const std::string dir = *scratch_ / "again";
  ASSERT_EQ(test::run_program(test::train_command(config_, dir)).code, 0);
  Outcome outcome = test::run_program(test::train_command(config_, dir));
  EXPECT_TRUE(outcome.says("nothing left to train: 6 steps are done")) << outcome.text;
  EXPECT_FALSE(outcome.says("now with")) << outcome.text;
  outcome =
      test::run_program(test::train_command(config_, dir, {"train.steps=8", "train.clip=0.5"}));
  EXPECT_TRUE(outcome.says("now with train.steps = 8 (was 6), train.clip = 0.5 (was 1.0)"))
      << outcome.text;
  EXPECT_FALSE(outcome.says("nothing left")) << outcome.text;
}

TEST_F(Usage, OutputThatIsCutIsNoSuccess) {
  test::Launch full;
  full.full_output = true;
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"--help"},
                                             {"train", "--keys"},
                                             {"inspect", run_, "--json"},
                                             {"report", run_, "--json"},
                                             {"eval", run_, "--json", "--limit", "1"},
                                             {"generate", run_, "--tokens", "2"},
                                             {"generate", run_, "--tokens", "2", "--json"},
                                             {"tokenize", "--bytes", "--text", "a"}}) {
    const Outcome outcome = test::run_program(command, full);
    EXPECT_EQ(outcome.code, 3) << command[0] << outcome.text;
    EXPECT_TRUE(outcome.says("cannot write to the standard output")) << outcome.text;
  }
}

TEST_F(Usage, ClosedOutputDoesNotEndInAFileOfTheRun) {
  test::Launch closed;
  closed.closed = true;
  const std::string dir = *scratch_ / "closed";
  EXPECT_EQ(test::run_program(test::train_command(config_, dir), closed).code, 0);
  EXPECT_EQ(test::get(dir + "/run.lock"), "");  // the first file that a run opens
}

TEST_F(Usage, HelpListsEveryOption) {
  const std::vector<std::pair<std::vector<std::string>, std::vector<const char*>>> rows = {
      {{},
       {"train", "eval", "generate", "tokenize", "bench", "inspect", "report", "import", "export",
        "Exit codes", "75"}},
      {{"train"}, {"CONFIG", "--device", "--keys", "run.dir", "status 75"}},
      {{"eval"}, {"--tasks", "--data", "--limit", "--batch-size", "--json", "lambada_openai"}},
      {{"generate"},
       {"--prompt", "--tokens", "--temperature", "--top-k", "--top-p", "--seed", "--samples",
        "--stop", "--show-experts", "--device"}},
      {{"tokenize"}, {"--vocab", "--merges", "--jsonl", "prepare", "train", "decode"}},
      {{"tokenize", "prepare"}, {"--out", "--tokenizer"}},
      {{"bench"}, {"train", "layer", "decode"}},
      {{"bench", "train"}, {"--steps", "--json"}},
      {{"bench", "layer"}, {"--tokens", "--d", "--experts", "--top-k", "--capacity", "--skew"}},
      {{"bench", "decode"}, {"--batch", "--context", "--json"}},
      {{"inspect"}, {"--json", "--tensors", "overrides"}},
      {{"report"}, {"run"}},
      {{"import"}, {"--hf"}},
      {{"export"}, {"--hf"}},
  };
  for (auto [command, words] : rows) {
    command.push_back("--help");
    for (const char* word : words) expect(0, word, command);
  }
}

}  // namespace
}  // namespace pyramoe
