// Batches are a pure function of (seed, step), and keep what they promise about order and shares.
#include "data/batches.h"

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "data/permutation.h"
#include "data/token_file.h"
#include "tests/data/support.h"

namespace pyramoe::data {
namespace {

using Ids = std::vector<int32_t>;

// A file of tokens first, first + 1, …
std::string counting_file(const ScratchFolder& folder, const std::string& name, int32_t first,
                          int64_t count, int64_t vocab = 100000) {
  Ids ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  TokenFileWriter writer(folder.file(name), vocab, 5);
  writer.write(ids);
  writer.commit();
  return folder.file(name);
}

CorpusConfig two_domains(const ScratchFolder& folder) {
  CorpusConfig config;
  config.domains = {{"a", counting_file(folder, "a.tok", 0, 1003), "", 0.7},
                    {"b", counting_file(folder, "b.tok", 50000, 411), "", 0.3}};
  config.vocab = 100000;
  config.val_fraction = 0.1;
  return config;
}

bool same(const Batch& a, const Batch& b) {
  return a.rows == b.rows && a.tokens == b.tokens && a.targets == b.targets &&
         a.domain == b.domain && a.sample == b.sample;
}

TEST(Permutation, VisitsEachPlaceOnce) {
  for (const int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    std::set<int64_t> seen;
    int64_t fixed = 0;
    const Permutation order(n, {.seed = 9, .purpose = RngPurpose::data_order});
    for (int64_t i = 0; i < n; ++i) {
      const int64_t to = order(i);
      ASSERT_GE(to, 0);
      ASSERT_LT(to, n);
      seen.insert(to);
      fixed += to == i;
    }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), n);
    if (n >= 100) {
      EXPECT_LT(fixed, 12);
    }
  }
  const Permutation large(int64_t{1} << 60, {.seed = 9, .purpose = RngPurpose::data_order});
  EXPECT_NE(large(0), large(1));
}

TEST(Blend, KeepsEveryShareToWithinOneSample) {
  const std::vector<std::vector<double>> cases = {{1},
                                                  {1, 1},
                                                  {0.7, 0.3},
                                                  {0.5, 0.25, 0.125, 0.125},
                                                  {3, 1, 1, 1, 1, 1},
                                                  {0.9, 0.05, 0.03, 0.02},
                                                  {1.0 / 3, 2.0 / 3},
                                                  {0.123456, 0.876544},
                                                  {std::sqrt(2.0), 1, std::sqrt(3.0)},
                                                  {1, 1e-9}};
  for (const std::vector<double>& weights : cases) {
    const Blend blend(weights);
    std::vector<int64_t> counts(weights.size(), 0);
    double worst = 0;
    for (int64_t g = 0; g < 2 * blend.period() + 100; ++g) {
      const Blend::Pick pick = blend.at(g);
      ASSERT_EQ(pick.ordinal, counts[static_cast<size_t>(pick.domain)]++);
      for (size_t d = 0; d < weights.size(); ++d) {
        const double share = static_cast<double>(blend.share(static_cast<int64_t>(d))) /
                             static_cast<double>(blend.period());
        worst = std::max(
            worst, std::abs(static_cast<double>(counts[d]) - share * static_cast<double>(g + 1)));
      }
    }
    EXPECT_LT(worst, 1.0) << weights.size();
  }
  EXPECT_EQ(Blend({0.7, 0.3}).period(), 10);
  EXPECT_EQ(Blend({0.9, 0.05, 0.03, 0.02}).share(2), 3);
  EXPECT_THROW(Blend({}), Error);
  EXPECT_THROW(Blend({1, 0}), Error);
  EXPECT_THROW(Blend({1, -1}), Error);
  EXPECT_THROW(Blend({1, std::nan("")}), Error);
}

TEST(Batches, AreAPureFunctionOfSeedAndStep) {
  const ScratchFolder folder;
  const Corpus corpus(two_domains(folder));
  const Batches batches(corpus, 6, 8, 42);
  std::vector<Batch> straight;
  for (int64_t step = 0; step < 60; ++step) straight.push_back(batches.at(step));
  for (const int64_t start :
       {59, 0, 17, 31}) {  // resumed anywhere, in any order, by another object
    const Corpus again(two_domains(folder));
    EXPECT_TRUE(same(Batches(again, 6, 8, 42).at(start), straight[static_cast<size_t>(start)]));
  }
  EXPECT_FALSE(same(Batches(corpus, 6, 8, 43).at(0), straight[0]));
  // Another batch size cuts the same stream of samples elsewhere.
  EXPECT_TRUE(same(Batches(corpus, 12, 8, 42).at(2), batches.samples(24, 12)));
}

TEST(Batches, TargetsFollowTokensAndDomainsAreNamed) {
  const ScratchFolder folder;
  const Corpus corpus(two_domains(folder));
  const Batches batches(corpus, 5, 8, 1);
  EXPECT_EQ(corpus.names(), (std::vector<std::string>{"a", "b"}));
  for (int64_t step = 0; step < 50; ++step) {
    const Batch batch = batches.at(step);
    ASSERT_EQ(batch.tokens.size(), 40u);
    for (size_t i = 0; i < 40; ++i) ASSERT_EQ(batch.targets[i], batch.tokens[i] + 1);
    for (size_t r = 0; r < 5; ++r) {
      const int64_t sample = batch.sample[r];
      ASSERT_EQ(sample, step * 5 + static_cast<int64_t>(r));
      const SamplePlace place = batches.locate(sample);
      ASSERT_EQ(place.domain, batch.domain[r]);
      const int32_t first = place.domain == 0 ? 0 : 50000;
      ASSERT_EQ(batch.tokens[r * 8], first + place.first_token);
      // Never a token of the validation part (the last tenth).
      ASSERT_LT(batch.targets[r * 8 + 7], place.domain == 0 ? 903 : 50370);
    }
  }
}

TEST(Batches, AnEpochVisitsEachWindowOnceAndTheNextInAnotherOrder) {
  const ScratchFolder folder;
  const Corpus corpus(two_domains(folder));
  const Batches batches(corpus, 4, 8, 3);
  std::map<std::pair<int32_t, int64_t>, std::vector<int64_t>> order;
  for (int64_t g = 0; g < 1000; ++g) {
    const SamplePlace place = batches.locate(g);
    order[{place.domain, place.epoch}].push_back(place.window);
  }
  const std::vector<int64_t>& first = order[{1, 0}];
  ASSERT_EQ(static_cast<int64_t>(first.size()), batches.windows(1));
  EXPECT_EQ(batches.windows(1), 45);  // (370 - 8) / 8
  EXPECT_EQ(std::set<int64_t>(first.begin(), first.end()).size(), first.size());
  const std::vector<int64_t>& second = order[{1, 1}];
  EXPECT_EQ(std::set<int64_t>(second.begin(), second.end()).size(), second.size());
  EXPECT_NE(first, second);
  EXPECT_FALSE(std::is_sorted(first.begin(), first.end()));
}

TEST(Batches, SlicesOfRanksJoinToTheWhole) {
  const ScratchFolder folder;
  const Corpus corpus(two_domains(folder));
  const Batches batches(corpus, 12, 4, 7);
  for (const int64_t ranks : {1, 2, 3, 4, 6, 12}) {
    const Batch whole = batches.at(11);
    Batch joined;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const Batch part = batches.at(11, rank, ranks);
      joined.rows += part.rows;
      joined.tokens.insert(joined.tokens.end(), part.tokens.begin(), part.tokens.end());
      joined.targets.insert(joined.targets.end(), part.targets.begin(), part.targets.end());
      joined.domain.insert(joined.domain.end(), part.domain.begin(), part.domain.end());
      joined.sample.insert(joined.sample.end(), part.sample.begin(), part.sample.end());
    }
    EXPECT_TRUE(same(joined, whole)) << ranks;
  }
  EXPECT_THROW(batches.at(0, 0, 5), Error);
  EXPECT_THROW(batches.at(0, 2, 2), Error);
}

TEST(Batches, TheShortestFileThatWorksWorks) {
  const ScratchFolder folder;
  CorpusConfig config;
  config.vocab = 100000;
  config.val_fraction = 0;
  for (int64_t length = 1; length <= 40; ++length) {
    config.domains = {{"a", counting_file(folder, "a.tok", 0, length), "", 1}};
    const Corpus corpus(config);
    if (length < 9) {
      const std::string message = data_error([&] { Batches(corpus, 2, 8, 0); });
      EXPECT_NE(message.find("a.tok"), std::string::npos) << message;
      continue;
    }
    const Batches batches(corpus, 2, 8, 0);
    std::set<int32_t> firsts;
    for (int64_t step = 0; step < 100; ++step) {
      const Batch batch = batches.at(step);
      for (size_t i = 0; i < 16; ++i) ASSERT_LT(batch.targets[i], length);
      firsts.insert(batch.tokens[0]);
    }
    EXPECT_EQ(*firsts.begin(), 0);
    if (length >= 17) {
      EXPECT_GE(firsts.size(), 8u);  // every phase of eight comes up
    }
  }
}

TEST(Batches, BadTokensAndWrongFilesAreNamed) {
  const ScratchFolder folder;
  CorpusConfig config;
  config.vocab = 500;
  config.val_fraction = 0;
  config.domains = {{"a", counting_file(folder, "a.tok", 0, 600), "", 1}};
  EXPECT_NE(data_error([&] { Corpus{config}; }).find("a.tok"), std::string::npos);
  // A format that does not say its vocabulary: found in whatever place a bad token is drawn.
  for (size_t bad = 0; bad < 9; ++bad) {
    std::string bytes;
    for (size_t i = 0; i < 9; ++i) bytes += std::string(i == bad ? "\xf4\x01" : "\x01\x00", 2);
    config.domains = {{"n", folder.file("n.bin", bytes), "", 1}};
    const Corpus corpus(config);
    const std::string message = data_error([&] { Batches(corpus, 1, 8, 0).at(0); });
    EXPECT_NE(message.find(cat("token ", bad, " is 500")), std::string::npos) << message;
    EXPECT_NE(message.find("n.bin"), std::string::npos) << message;
  }
  config.vocab = 100000;
  config.tokenizer_hash = 6;
  config.domains = {{"a", folder.file("a.tok"), "", 1}};
  EXPECT_NE(data_error([&] { Corpus{config}; }).find("another tokenizer"), std::string::npos);
  config.tokenizer_hash = 5;
  EXPECT_NO_THROW(Corpus{config});
  // Without a tokenizer of the run, the first file's is the one of all.
  config.tokenizer_hash = 0;
  TokenFileWriter other(folder.path() + "/other.tok", 500, 7);
  other.begin_document();
  other.write(std::vector<int32_t>{1, 2, 3});
  other.commit();
  config.domains.push_back({"other", folder.path() + "/other.tok", "", 1});
  EXPECT_NE(data_error([&] { Corpus{config}; }).find("other.tok: made with another tokenizer"),
            std::string::npos);
  config.domains.pop_back();
  config.domains.push_back(config.domains[0]);
  EXPECT_THROW(Corpus{config}, Error);  // two of one name
  config.domains.clear();
  EXPECT_THROW(Corpus{config}, Error);
}

TEST(ValidationSet, WalksEachPartOnceInOrder) {
  const ScratchFolder folder;
  const Corpus corpus(two_domains(folder));
  const ValidationSet set(corpus, 8);
  EXPECT_EQ(set.end(0) - set.begin(0), 12);  // 100 tokens: (100 - 1) / 8
  EXPECT_EQ(set.end(1) - set.begin(1), 5);   // 41 tokens
  const Batch batch = set.windows(0, 1000);
  ASSERT_EQ(batch.rows, 17);
  for (int64_t w = 0; w < 12; ++w) EXPECT_EQ(batch.tokens[static_cast<size_t>(w * 8)], 903 + w * 8);
  for (int64_t w = 0; w < 5; ++w) {
    EXPECT_EQ(batch.tokens[static_cast<size_t>((12 + w) * 8)], 50370 + w * 8);
    EXPECT_EQ(batch.domain[static_cast<size_t>(12 + w)], 1);
  }
  const Batch middle = set.windows(11, 3);
  EXPECT_EQ(middle.tokens[8], 50370);
  EXPECT_EQ(middle.sample, (std::vector<int64_t>{11, 12, 13}));
  const ValidationSet capped(corpus, 8, 4);
  EXPECT_EQ(capped.size(), 8);
  EXPECT_EQ(capped.windows(1, 1).tokens[0], 903 + 3 * 8);  // every third of twelve
}

TEST(ValidationSet, TakesASeparateFileAndRefusesAPartTooShort) {
  const ScratchFolder folder;
  CorpusConfig config = two_domains(folder);
  config.domains[0].val_path = counting_file(folder, "v.tok", 70000, 20);
  const Corpus corpus(config);
  EXPECT_EQ(corpus.domains()[0].train.size(), 1003);
  EXPECT_EQ(ValidationSet(corpus, 8).windows(0, 1).tokens[0], 70000);
  const std::string message = data_error([&] { ValidationSet(corpus, 20); });
  EXPECT_NE(message.find("v.tok"), std::string::npos) << message;
  config.domains[0].val_path.clear();
  config.val_fraction = 0;
  const Corpus none(config);
  EXPECT_EQ(ValidationSet(none, 8).size(), 0);
}

TEST(Synthetic, FollowsItsRuleFromAnyPlace) {
  for (const int64_t vocab : {2, 3, 64, 8192}) {
    const auto source = make_synthetic_source(vocab, 5, 1 << 16);
    Ids all(5000);
    source->read(0, all);
    Ids part(100);
    source->read(1237, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 1237));
    // Each token has one successor, but for about one in sixteen, where a run ends.
    std::map<int32_t, std::map<int32_t, int>> next;
    for (size_t i = 0; i + 1 < all.size(); ++i) {
      ASSERT_GE(all[i], 0);
      ASSERT_LT(all[i], vocab);
      ++next[all[i]][all[i + 1]];
    }
    int follow = 0;
    for (const auto& [token, successors] : next) {
      int most = 0;
      for (const auto& [successor, count] : successors) most = std::max(most, count);
      follow += most;
    }
    EXPECT_GT(follow, 4999 * 14 / 16) << vocab;
    if (vocab <= 64) {
      EXPECT_LT(follow, 4999) << vocab;
    }
  }
  CorpusConfig config;
  config.domains = {{"x", kSynthetic, "", 1}, {"y", kSynthetic, "", 1}};
  config.vocab = 64;
  const Corpus corpus(config);
  const Batch batch = Batches(corpus, 2, 16, 0).at(0);
  EXPECT_NE(Ids(batch.tokens.begin(), batch.tokens.begin() + 16),
            Ids(batch.tokens.begin() + 16, batch.tokens.end()));
  EXPECT_GT(ValidationSet(corpus, 16, 10).size(), 0);
  // Two domains are two texts, and each has an order of its own.
  Ids x(64), y(64);
  corpus.domains()[0].train.source->read(0, x);
  corpus.domains()[1].train.source->read(0, y);
  EXPECT_NE(x, y);
}

TEST(Batches, DomainsOfOneSizeHaveTheirOwnOrders) {
  const ScratchFolder folder;
  CorpusConfig config;
  config.domains = {{"a", counting_file(folder, "a.tok", 0, 411), "", 1},
                    {"b", counting_file(folder, "b.tok", 0, 411), "", 1}};
  config.vocab = 100000;
  const Corpus corpus(config);
  const Batches batches(corpus, 2, 8, 3);
  std::vector<int64_t> order[2];
  for (int64_t g = 0; g < 60; ++g) {
    const SamplePlace place = batches.locate(g);
    order[place.domain].push_back(place.window);
  }
  EXPECT_EQ(order[0].size(), order[1].size());
  EXPECT_NE(order[0], order[1]);
}

}  // namespace
}  // namespace pyramoe::data
