// Bad data: missing, empty, cut, damaged, of another vocabulary or tokenizer, too short. Exit code
// 3 (2 where the config is at fault), the file is named, and no step is trained.
#include <gtest/gtest.h>

#include <random>

#include "data/token_file.h"
#include "tests/cli/support.h"

namespace pyramoe {
namespace {

using test::Outcome;
using test::Scratch;

void write_tokens(const std::string& path, int64_t count, int64_t vocab, uint64_t hash = 0) {
  data::TokenFileWriter writer(path, vocab, hash);
  writer.begin_document();
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(i * 7 % vocab));
  writer.write(tokens);
  writer.commit();
}

class DataFaults : public testing::Test {
 protected:
  void SetUp() override {
    config_ = test::tiny_config(scratch_);
    write_tokens(good_, 2000, 16);
  }
  Outcome train(const std::string& sources, const std::vector<std::string>& more = {}) {
    std::vector<std::string> settings = {"data.synthetic=false",
                                         "data.sources=[\"" + sources + "\"]"};
    settings.insert(settings.end(), more.begin(), more.end());
    return test::run_program(test::train_command(config_, scratch_ / "run", settings));
  }
  void expect_refused(const Outcome& outcome, int code, const std::string& what,
                      const std::vector<std::string>& words) {
    EXPECT_EQ(outcome.code, code) << what << "\n" << outcome.text;
    for (const std::string& word : words) {
      EXPECT_TRUE(outcome.says(word)) << what << ": expected " << word << "\n" << outcome.text;
    }
    EXPECT_FALSE(outcome.says("step 1/")) << what << ": a step was trained";
    EXPECT_FALSE(test::there(scratch_ / "run/checkpoints")) << what;
  }

  Scratch scratch_;
  std::string config_, good_ = scratch_ / "good.tok";
};

TEST_F(DataFaults, GoodDataTrains) {
  const Outcome outcome = train(good_);
  EXPECT_EQ(outcome.code, 0) << outcome.text;
}

TEST_F(DataFaults, FilesThatAreNotWhatTheyShouldBe) {
  const std::string bytes = test::get(good_);
  struct Row {
    const char* name;
    std::string content, words;
  };
  const std::vector<Row> rows = {
      {"empty.tok", "", "empty"},
      {"text.tok", "once upon a time\n", "not a token file"},
      {"text.txt", "once upon a time\n", "tokenize prepare"},
      {"cut.tok", bytes.substr(0, bytes.size() / 2), "cut.tok"},
      {"header.tok", bytes.substr(0, 20), "header.tok"},
      {"long.tok", bytes + "x", "long.tok"},
      {"odd.bin", "abc", "odd.bin"},
      {"empty.bin", "", "empty"},
      {"lonely.idx", "MMIDIDX", "lonely"},
  };
  for (const Row& row : rows) {
    const std::string path = scratch_ / row.name;
    test::put(path, row.content);
    expect_refused(train(path), 3, row.name, {path.substr(0, path.size() - 4), row.words});
  }
  expect_refused(train(scratch_ / "none.tok"), 3, "missing", {"none.tok", "check the spelling"});
  expect_refused(train(scratch_.path()), 3, "a folder", {scratch_.path()});
  expect_refused(train("name=" + (scratch_ / "none.tok")), 3, "named", {"none.tok"});
}

TEST_F(DataFaults, EveryFlippedBitOfATokenFileIsNoticed) {
  const std::string small = scratch_ / "small.tok", bytes = [&] {
    write_tokens(small, 300, 16);
    return test::get(small);
  }();
  std::mt19937_64 random(3);
  const size_t bits = bytes.size() * 8;
  const size_t tries = test::campaign() ? bits : 2000;
  for (size_t i = 0; i < tries; ++i) {
    const size_t bit = tries == bits ? i : random() % bits;
    std::string bad = bytes;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    test::put(small, bad);
    try {
      data::TokenFile file(small);
      ADD_FAILURE() << "bit " << bit << " was not noticed";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data) << bit;
      EXPECT_NE(std::string(error.what()).find("small.tok"), std::string::npos) << error.what();
    }
  }
  for (size_t length = 0; length < bytes.size(); ++length) {
    test::put(small, bytes.substr(0, length));
    EXPECT_THROW(data::TokenFile file(small), Error) << "cut to " << length;
  }
  std::string bad = bytes;
  bad[bytes.size() / 3] ^= 4;
  test::put(small, bad);
  expect_refused(train(small), 3, "flipped", {"small.tok"});
}

TEST_F(DataFaults, WrongVocabularyTokenizerOrLength) {
  write_tokens(scratch_ / "wide.tok", 2000, 300);
  expect_refused(train(scratch_ / "wide.tok"), 3, "vocabulary", {"wide.tok", "model.vocab"});
  // nanoGPT's format says nothing of its vocabulary: the first token outside is named.
  std::string raw(4000, '\0');
  for (size_t i = 0; i < raw.size(); i += 2) raw[i] = static_cast<char>(i / 2 % 16);
  raw[1001] = 1;
  test::put(scratch_ / "raw.bin", raw);
  const Outcome met = train(scratch_ / "raw.bin", {"data.val_fraction=0", "train.steps=500"});
  EXPECT_EQ(met.code, 3) << met.text;
  for (const char* word : {"raw.bin", "token 500 is ", "outside the vocabulary of 16"}) {
    EXPECT_TRUE(met.says(word)) << met.text;
  }
  test::remove_all(scratch_ / "run");
  write_tokens(scratch_ / "short.tok", 8, 16);
  expect_refused(train(scratch_ / "short.tok", {"data.val_fraction=0"}), 3, "short",
                 {"short", "context"});
  expect_refused(train(good_, {"model.context=100000"}), 3, "context", {"good", "context"});
  write_tokens(scratch_ / "other.tok", 2000, 256, 12345);
  const Outcome prepared = test::run_program(
      {"tokenize", "train", config_, "--vocab-size", "300", "--out", scratch_ / "tokenizer"});
  ASSERT_EQ(prepared.code, 0) << prepared.text;
  const std::string tokenizer = "data.tokenizer=" + (scratch_ / "tokenizer");
  expect_refused(train(good_, {tokenizer}), 2, "tokenizer too large",
                 {"tokenizer", "model.vocab = 16"});
  expect_refused(train(scratch_ / "other.tok", {tokenizer, "model.vocab=512"}), 3, "hash",
                 {"other.tok", "another tokenizer"});
  expect_refused(train(good_, {"data.tokenizer=" + (scratch_ / "nowhere")}), 3, "no tokenizer",
                 {"nowhere"});
  expect_refused(train(good_ + "\", \"" + good_), 2, "twice", {"two domains are named \"good\""});
}

TEST_F(DataFaults, EvalTakesTokensOfTheRunsTokenizerOnly) {
  const std::string run = scratch_ / "run";
  for (const char* name : {"a", "b"}) {
    const std::string text = scratch_ / (std::string(name) + ".txt");
    const std::string tokenizer = scratch_ / name;
    std::string letters = std::string("xyz") + name;
    for (int i = 0; i < 9; ++i) letters += letters;
    test::put(text, letters.substr(0, 2000));
    for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
             {"tokenize", "train", text, "--kind", "char", "--out", tokenizer},
             {"tokenize", "prepare", text, "--tokenizer", tokenizer, "--out",
              tokenizer + ".tok"}}) {
      ASSERT_EQ(test::run_program(command).code, 0);
    }
  }
  ASSERT_EQ(train(scratch_ / "a.tok", {"data.tokenizer=" + (scratch_ / "a")}).code, 0);
  EXPECT_EQ(test::run_program({"eval", run, "--loss"}).code, 0);
  EXPECT_EQ(test::run_program({"eval", run, "--loss", "--source", scratch_ / "a.tok"}).code, 0);
  const Outcome other = test::run_program({"eval", run, "--loss", "--source", scratch_ / "b.tok"});
  EXPECT_EQ(other.code, 3) << other.text;
  EXPECT_TRUE(other.says("another tokenizer")) << other.text;

  // A loss of no tokens at all is no loss.
  const std::string whole = scratch_ / "whole";
  test::copy_tree(run, whole);
  test::remove_all(run);
  ASSERT_EQ(train(scratch_ / "a.tok", {"data.val_fraction=0"}).code, 0);
  const Outcome nothing = test::run_program({"eval", run, "--loss"});
  EXPECT_EQ(nothing.code, 2) << nothing.text;
  EXPECT_TRUE(nothing.says("data.val_fraction = 0")) << nothing.text;
  // A file that is named is read whole: 2000 characters are 249 windows of 8.
  const Outcome named = test::run_program(
      {"eval", run, "--loss", "--json", "--source", "mine=" + (scratch_ / "a.tok")});
  EXPECT_EQ(named.code, 0) << named.text;
  EXPECT_TRUE(named.says("mine")) << named.text;
  EXPECT_TRUE(named.says("1992")) << named.text;
  test::remove_all(run);
  test::copy_tree(whole, run);

  // An imported run has weights and a tokenizer, but no data.
  const std::string hf = scratch_ / "hf", imported = scratch_ / "imported";
  ASSERT_EQ(test::run_program({"export", run, "--hf", hf}).code, 0);
  ASSERT_EQ(test::run_program({"import", "--hf", hf, imported}).code, 0);
  const Outcome without = test::run_program({"eval", imported, "--loss"});
  EXPECT_EQ(without.code, 2) << without.text;
  EXPECT_TRUE(without.says("--source")) << without.text;
}

}  // namespace
}  // namespace pyramoe
