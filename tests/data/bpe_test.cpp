// Byte-pair encoding: GPT-2's ids, every byte string back again, hostile vocabularies refused.
#include "data/bpe.h"

#include <chrono>

#include "core/json.h"
#include "core/parallel.h"
#include "data/byte_alphabet.h"
#include "tests/data/support.h"

namespace pyramoe::data {
namespace {

using Ids = std::vector<int32_t>;

const Bpe& gpt2() {
  static const Bpe bpe = Bpe::load(shared_path("tokenizer/gpt2_encoder.json"),
                                   shared_path("tokenizer/gpt2_vocab.bpe"));
  return bpe;
}

// The 256 bytes, then what the test adds.
std::vector<std::string> base_names(std::vector<std::string> more = {}) {
  std::vector<std::string> names;
  for (const uint8_t b : bytes_in_gpt2_order()) {
    names.push_back(to_alphabet(std::string(1, static_cast<char>(b))));
  }
  names.insert(names.end(), more.begin(), more.end());
  return names;
}

std::string vocab_of(const std::vector<std::string>& names) {
  std::string text = "{";
  for (size_t i = 0; i < names.size(); ++i) {
    text += cat(i ? "," : "", dump_json(Json(names[i])), ":", i);
  }
  return text + "}";
}

std::string parse_error(const std::string& vocab, const std::string& merges) {
  return data_error([&] { Bpe::parse(vocab, merges, "vocab.json", "merges.txt"); });
}

TEST(Bpe, GivesTheGoldenIds) {
  PM_NEEDS_SHARED("tokenizer/gpt2_golden.jsonl");
  const std::string golden = read_file(shared_path("tokenizer/gpt2_golden.jsonl"));
  size_t lines = 0;
  for (size_t at = 0; at < golden.size(); ++lines) {
    const size_t stop = golden.find('\n', at);
    const Json row = parse_json(std::string_view(golden).substr(at, stop - at), "golden");
    at = stop + 1;
    const auto text = row.at("text").get<std::string>();
    const auto ids = row.at("ids").get<Ids>();
    EXPECT_EQ(gpt2().encode(text), ids) << text;
    EXPECT_EQ(gpt2().decode(ids), text);
  }
  EXPECT_EQ(lines, 163u);
}

TEST(Bpe, CountsTheTokensOfTinyShakespeare) {
  PM_NEEDS_SHARED("text/tinyshakespeare.txt");
  const std::string text = read_file(shared_path("text/tinyshakespeare.txt"));
  EXPECT_EQ(gpt2().encode(text).size(), 338025u);
}

TEST(Bpe, EveryByteStringComesBack) {
  PM_NEEDS_SHARED("tokenizer/gpt2_encoder.json");
  Dice dice(3);
  for (int round = 0; round < 10000; ++round) {
    std::string text;
    for (uint32_t n = dice.below(60); n > 0; --n) {
      text.push_back(dice.below(3) == 0 ? dice.byte() : " etaoinshr'\n\xc3\xa9"[dice.below(15)]);
    }
    const Ids ids = gpt2().encode(text);
    ASSERT_EQ(gpt2().decode(ids), text) << testing::PrintToString(text);
  }
}

TEST(Bpe, PiecesOnAnyNumberOfThreadsGiveTheSameIds) {
  PM_NEEDS_SHARED("text/udhr_multilingual.txt");
  std::string text = read_file(shared_path("text/udhr_multilingual.txt"));
  text += text + std::string(300000, ' ') + std::string(300000, 'a') + "\xff\xff" + text;
  const int before = num_threads();
  set_num_threads(1);
  const Ids one = gpt2().encode(text);
  set_num_threads(3);
  const Ids three = gpt2().encode(text);
  set_num_threads(before);
  EXPECT_EQ(one, three);
  EXPECT_EQ(gpt2().decode(one), text);
}

TEST(Bpe, SpecialTokensAreTextUnlessAskedFor) {
  PM_NEEDS_SHARED("tokenizer/gpt2_encoder.json");
  const std::string text = "a<|endoftext|>b<|endoftext|>";
  EXPECT_EQ(gpt2().encode(text, true), (Ids{64, 50256, 65, 50256}));
  const Ids plain = gpt2().encode(text);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 50256), 0);
  EXPECT_EQ(gpt2().decode(plain), text);
  EXPECT_EQ(gpt2().decode(Ids{50256}), kEndOfText);
}

TEST(Bpe, LongWordsAreNotQuadratic) {
  PM_NEEDS_SHARED("tokenizer/gpt2_encoder.json");
  const auto start = std::chrono::steady_clock::now();
  for (const char* unit : {"a", " ", "ab", "=", "\xff", "\xe4\xb8\xad"}) {
    std::string text;
    while (text.size() < (size_t{1} << 20)) text += unit;
    EXPECT_EQ(gpt2().decode(gpt2().encode(text)), text);
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_LT(took.count(), 30.0);  // about 0.2 each; a quadratic way takes hours
}

// Merges in GPT-2's order: the best pair everywhere in the word, then again.
Ids naive_merge(const std::string& word, const std::vector<std::string>& names,
                const std::vector<Merge>& merges) {
  const auto id_of = [&](const std::string& name) {
    return static_cast<int32_t>(std::find(names.begin(), names.end(), name) - names.begin());
  };
  Ids ids;
  for (const char c : word) ids.push_back(id_of(to_alphabet(std::string(1, c))));
  for (;;) {
    const auto best = std::find_if(merges.begin(), merges.end(), [&](const Merge& m) {
      for (size_t i = 0; i + 1 < ids.size(); ++i) {
        if (ids[i] == m.first && ids[i + 1] == m.second) return true;
      }
      return false;
    });
    if (best == merges.end()) return ids;
    Ids next;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i + 1 < ids.size() && ids[i] == best->first && ids[i + 1] == best->second) {
        next.push_back(id_of(names[static_cast<size_t>(best->first)] +
                             names[static_cast<size_t>(best->second)]));
        ++i;
      } else {
        next.push_back(ids[i]);
      }
    }
    ids = next;
  }
}

TEST(Bpe, ShortAndLongWordsMergeInTheOrderOfTheDefinition) {
  // Random merges, in an order no trainer would give, over two letters: many ties and overlaps.
  Dice dice(4);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> names = base_names();
    std::vector<std::string> grown = {"a", "b"};
    while (names.size() < 256 + 14) {
      const std::string whole = grown[dice.below(static_cast<uint32_t>(grown.size()))] +
                                grown[dice.below(static_cast<uint32_t>(grown.size()))];
      if (std::find(names.begin(), names.end(), whole) != names.end()) continue;
      names.push_back(whole);
      grown.push_back(whole);
    }
    std::vector<Merge> merges;
    const auto n = static_cast<int32_t>(names.size());
    for (int32_t l = 0; l < n; ++l) {
      for (int32_t r = 0; r < n; ++r) {
        const std::string whole = names[static_cast<size_t>(l)] + names[static_cast<size_t>(r)];
        const auto found = std::find(names.begin() + 256, names.end(), whole);
        if (found != names.end()) merges.emplace_back(l, r);
      }
    }
    for (size_t i = merges.size(); i > 1; --i) {
      std::swap(merges[i - 1], merges[dice.below(static_cast<uint32_t>(i))]);
    }
    const Bpe bpe(names, merges);
    for (const uint32_t length : {1u, 7u, 16u, 17u, 47u, 48u, 49u, 90u}) {
      std::string word;
      for (uint32_t i = 0; i < length; ++i) word += dice.below(2) ? 'a' : 'b';
      ASSERT_EQ(bpe.encode(word), naive_merge(word, names, merges)) << word;
    }
  }
}

TEST(Bpe, WritesFilesThatItReadsBack) {
  PM_NEEDS_SHARED("tokenizer/gpt2_encoder.json");
  const Bpe again =
      Bpe::parse(gpt2().vocab_json(), gpt2().merges_text(), "vocab.json", "merges.txt");
  EXPECT_EQ(again.vocab_size(), 50257);
  EXPECT_EQ(again.merges(), gpt2().merges());
  for (int32_t id = 0; id < 50257; ++id) ASSERT_EQ(again.name_of(id), gpt2().name_of(id));
}

TEST(BpeFiles, RefusesHostileVocabularies) {
  const std::string good = vocab_of(base_names({"ab"}));
  ASSERT_EQ(parse_error(good, "#version: 0.2\na b\n"), "");
  const auto expect = [&](const std::string& vocab, const std::string& merges, const char* says) {
    const std::string message = parse_error(vocab, merges);
    EXPECT_NE(message.find(says), std::string::npos) << says << " not in: " << message;
    EXPECT_NE(message.find("vocab.json") == std::string::npos &&
                  message.find("merges.txt") == std::string::npos,
              true)
        << message;
  };
  const std::string head = good.substr(0, good.size() - 1);
  expect("", "", "not valid JSON");
  expect("{", "", "not valid JSON");
  expect("[1]", "", "object");
  expect("{}", "", "has no token");
  expect("{\"a\":[[[[1]]]]}", "", "deeper");
  expect(head + ",\"x1\":-1}", "", "whole number");
  expect(head + ",\"x1\":1.5}", "", "whole number");
  expect(head + ",\"x1\":\"7\"}", "", "whole number");
  expect(head + ",\"x1\":99999999999999999999}", "", "whole number");
  expect(head + ",\"x1\":258}", "", "[0, 258)");
  expect(head + ",\"x1\":5}", "", "of its own");
  expect(head + ",\"ab\":257}", "", "twice");
  expect(head + ",\"\":257}", "", "0 bytes");
  expect(vocab_of({"a", "b"}), "", "has no token");
  expect(good, "a b c\n", "one blank");
  expect(good, "ab\n", "one blank");
  expect(good, "a  b\n", "one blank");
  expect(good, "a zz\n", "no token");
  expect(good, "b a\n", "no token");
  expect(good, "a b\na b\n", "twice");
  expect(good, "a b\n\xff \xfe\n", "no token");
  expect(good, " b\n", "no token");
  EXPECT_NE(data_error([] { Bpe::load("/nonexistent/a.json", "/nonexistent/b.txt"); }), "");
  EXPECT_NE(data_error([&] { Bpe(base_names(), {}).decode(Ids{256}); }), "");
  EXPECT_NE(data_error([&] { Bpe(base_names(), {}).decode(Ids{-1}); }), "");
}

TEST(BpeFiles, DamagedFilesNeverCrash) {
  const std::string vocab = vocab_of(base_names({"ab", "abc", kEndOfText}));
  const std::string merges = "#version: 0.2\na b\nab c\n";
  Dice dice(5);
  for (int round = 0; round < 3000; ++round) {
    std::string v = vocab, m = merges;
    std::string& target = dice.below(2) ? v : m;
    for (uint32_t n = 1 + dice.below(3); n > 0; --n) {
      const uint32_t at = dice.below(static_cast<uint32_t>(target.size()));
      if (dice.below(4) == 0) {
        target.resize(at + 1);
      } else {
        target[at] = dice.byte();
      }
    }
    try {
      const Bpe bpe = Bpe::parse(v, m, "vocab.json", "merges.txt");
      ASSERT_EQ(bpe.decode(bpe.encode("abc ab")), "abc ab");
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), Exit::data) << error.what();
    }
  }
}

}  // namespace
}  // namespace pyramoe::data
