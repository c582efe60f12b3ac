// The trainer learns what the plain algorithm learns, on any number of threads.
#include "data/bpe_trainer.h"

#include <map>

#include "core/parallel.h"
#include "data/bpe_split.h"
#include "data/byte_alphabet.h"
#include "tests/data/support.h"

namespace pyramoe::data {
namespace {

// Algorithm 1 of Sennrich et al. as it is written: count all pairs, merge the best, again.
struct Naive {
  std::vector<std::string> names;
  std::vector<Merge> merges;
};

Naive naive_train(const std::vector<std::string>& texts, int64_t vocab_size, int64_t min_count) {
  Naive result;
  std::map<uint8_t, int32_t> byte_ids;
  for (const uint8_t b : bytes_in_gpt2_order()) {
    byte_ids[b] = static_cast<int32_t>(result.names.size());
    result.names.push_back(to_alphabet(std::string(1, static_cast<char>(b))));
  }
  std::map<std::vector<int32_t>, int64_t> words;
  for (const std::string& text : texts) {
    for (const std::string_view word : split_words(text)) {
      std::vector<int32_t> ids;
      for (const char c : word) ids.push_back(byte_ids[static_cast<uint8_t>(c)]);
      ++words[ids];
    }
  }
  while (static_cast<int64_t>(result.names.size()) + 1 < vocab_size) {
    std::map<Merge, int64_t> pairs;
    for (const auto& [ids, count] : words) {
      for (size_t i = 0; i + 1 < ids.size(); ++i) pairs[{ids[i], ids[i + 1]}] += count;
    }
    Merge best;
    int64_t most = 0;
    for (const auto& [pair, count] : pairs) {  // in order of ids: the first of equals wins
      if (count > most) {
        best = pair;
        most = count;
      }
    }
    if (most < min_count) break;
    const std::string whole = result.names[static_cast<size_t>(best.first)] +
                              result.names[static_cast<size_t>(best.second)];
    auto found = std::find(result.names.begin(), result.names.end(), whole);
    const auto id = static_cast<int32_t>(found - result.names.begin());
    if (found == result.names.end()) result.names.push_back(whole);
    if (std::find(result.merges.begin(), result.merges.end(), best) == result.merges.end()) {
      result.merges.push_back(best);
    }
    std::map<std::vector<int32_t>, int64_t> merged;
    for (const auto& [ids, count] : words) {
      std::vector<int32_t> next;
      for (size_t i = 0; i < ids.size(); ++i) {
        const bool hit = i + 1 < ids.size() && Merge(ids[i], ids[i + 1]) == best;
        next.push_back(hit ? id : ids[i]);
        if (hit) ++i;
      }
      merged[next] += count;
    }
    words = merged;
  }
  result.names.emplace_back(kEndOfText);
  return result;
}

void expect_equal(const Bpe& bpe, const Naive& naive) {
  ASSERT_EQ(bpe.vocab_size(), static_cast<int64_t>(naive.names.size()));
  for (size_t i = 0; i < naive.names.size(); ++i) {
    ASSERT_EQ(bpe.name_of(static_cast<int32_t>(i)), naive.names[i]) << i;
  }
  EXPECT_EQ(bpe.merges(), naive.merges);
}

TEST(BpeTrainer, LearnsWhatTheNaiveTrainerLearns) {
  Dice dice(11);
  for (int round = 0; round < 40; ++round) {
    const uint32_t letters = 1 + dice.below(4);
    std::vector<std::string> texts(1 + dice.below(4));
    for (std::string& text : texts) {
      for (uint32_t n = dice.below(400); n > 0; --n) {
        text += dice.below(9) == 0 ? ' ' : static_cast<char>('a' + dice.below(letters));
      }
    }
    BpeTrainer trainer;
    trainer.add(texts);
    expect_equal(trainer.train({.vocab_size = 330, .min_count = 2, .progress = {}}),
                 naive_train(texts, 330, 2));
    if (HasFatalFailure()) return;
  }
}

TEST(BpeTrainer, LearnsShakespeareAsTheNaiveTrainerDoes) {
  PM_NEEDS_SHARED("text/tinyshakespeare.txt");
  const std::vector<std::string> texts = {
      read_file(shared_path("text/tinyshakespeare.txt")).substr(0, 200000)};
  BpeTrainer trainer;
  trainer.add(texts);
  expect_equal(trainer.train({.vocab_size = 400, .min_count = 2, .progress = {}}),
               naive_train(texts, 400, 2));
}

TEST(BpeTrainer, ThreadsAndCutsDoNotMatter) {
  PM_NEEDS_SHARED("text/tinyshakespeare.txt");
  const std::string text = read_file(shared_path("text/tinyshakespeare.txt"));
  const int before = num_threads();
  std::vector<std::string> vocabs;
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    BpeTrainer trainer;
    const size_t cut = threads == 1 ? text.size() : safe_cut(text, 400000);
    trainer.add(std::vector<std::string>{text.substr(0, cut), text.substr(cut)});
    const Bpe bpe = trainer.train({});
    EXPECT_EQ(bpe.vocab_size(), 8192);
    EXPECT_EQ(bpe.eot(), 8191);
    EXPECT_EQ(bpe.decode(bpe.encode(text)), text);
    vocabs.push_back(bpe.vocab_json() + bpe.merges_text());
    const Bpe again = Bpe::parse(bpe.vocab_json(), bpe.merges_text(), "vocab.json", "merges.txt");
    EXPECT_EQ(again.encode(text), bpe.encode(text));
  }
  set_num_threads(before);
  EXPECT_EQ(vocabs[0], vocabs[1]);
}

TEST(BpeTrainer, StopsWhenNothingIsLeftToMerge) {
  BpeTrainer trainer;
  EXPECT_EQ(trainer.train({}).vocab_size(), 257);
  trainer.add(std::vector<std::string>{"aa aa"});
  EXPECT_EQ(trainer.train({}).vocab_size(), 258);
  EXPECT_THROW(trainer.train({.vocab_size = 256, .min_count = 1, .progress = {}}), Error);
}

TEST(BpeTrainer, TextThatSpellsTheEndOfTextDoesNotTakeItsName) {
  BpeTrainer trainer;
  std::string text;
  for (int i = 0; i < 50; ++i) text += "<|endoftext|>";
  trainer.add(std::vector<std::string>{text, "<|", "endoftext", "|>"});
  const Bpe bpe = trainer.train({.vocab_size = 600, .min_count = 1, .progress = {}});
  EXPECT_EQ(bpe.eot(), bpe.vocab_size() - 1);
  EXPECT_EQ(bpe.encode("<|endoftext|>", true).size(), 1u);
}

}  // namespace
}  // namespace pyramoe::data
