// The hand-written scanner gives the words that the regular expression gives.
#include "data/bpe_split.h"

#include "data/utf8.h"
#include "tests/data/support.h"

namespace pyramoe::data {
namespace {

using Words = std::vector<std::string_view>;

// Compares on pieces, so that a difference shows its neighbourhood.
void expect_same_words(std::string_view text) {
  const Words fast = split_words(text);
  const Words slow = split_words_pcre2(text);
  const size_t n = std::min(fast.size(), slow.size());
  for (size_t i = 0; i < n; ++i) {
    ASSERT_EQ(fast[i], slow[i]) << "word " << i << " of "
                                << testing::PrintToString(text.substr(0, 200));
  }
  ASSERT_EQ(fast.size(), slow.size());
}

TEST(Split, KeepsTheLastBlankForTheNextWord) {
  EXPECT_EQ(split_words("a  b"), (Words{"a", " ", " b"}));
  EXPECT_EQ(split_words("a\n\nb"), (Words{"a", "\n", "\n", "b"}));
  EXPECT_EQ(split_words("a \n"), (Words{"a", " \n"}));
  EXPECT_EQ(split_words(" 's don't 'S"), (Words{" '", "s", " don", "'t", " '", "S"}));
}

TEST(Split, TakesWhiteSpaceFromUnicodeExactly) {
  // In: next line, no-break space, ideographic space. Out: U+180E, zero width space and BOM.
  for (const char32_t c :
       {0x85, 0xA0, 0x3000, 0x1680, 0x2000, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F}) {
    std::string text = "x";
    append_utf8(text, c);
    append_utf8(text, c);
    EXPECT_EQ(split_words(text + "y").size(), 4u) << static_cast<uint32_t>(c);
    expect_same_words(text + "y");
  }
  for (const char32_t c : {0x180E, 0x200B, 0xFEFF}) {
    std::string text = "x";
    append_utf8(text, c);
    append_utf8(text, c);
    EXPECT_EQ(split_words(text + "y").size(), 3u) << static_cast<uint32_t>(c);
    expect_same_words(text + "y");
  }
}

TEST(Split, RunsOfBrokenBytesAreWordsOfTheirOwn) {
  EXPECT_EQ(split_words("a  \xff\xfe b"), (Words{"a", "  ", "\xff\xfe", " b"}));
  EXPECT_EQ(split_words("\xe2\x82"), (Words{"\xe2\x82"}));
  EXPECT_EQ(split_words("'\x80s"), (Words{"'", "\x80", "s"}));
}

TEST(Split, EveryCodePointHasItsClass) {
  std::string text;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    text += (c % 3 == 0) ? " " : "a";
    append_utf8(text, c);
  }
  expect_same_words(text);
}

TEST(Split, EqualsTheRegularExpressionOnRandomStrings) {
  const std::vector<std::string> atoms = {" ",      " ",
                                          "  ",     "\n",
                                          "\t",     "'",
                                          "'s",     "'ll",
                                          "'re",    "a",
                                          "Z",      "é",
                                          "7",      "٣",
                                          "½",      ".",
                                          "—",      "“",
                                          "\u00a0", "\u3000",
                                          "\u200b", "中",
                                          "\xff",   "\xe2\x82",
                                          "\x80",   std::string(1, '\0'),
                                          "🙂",   "\r\n",
                                          "d"};
  Dice dice(1);
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (uint32_t n = dice.below(14); n > 0; --n) {
      text += atoms[dice.below(static_cast<uint32_t>(atoms.size()))];
    }
    expect_same_words(text);
    if (HasFatalFailure()) return;
  }
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    for (uint32_t n = dice.below(40); n > 0; --n) text.push_back(dice.byte());
    expect_same_words(text);
    if (HasFatalFailure()) return;
  }
}

TEST(Split, SafeCutsDoNotChangeTheWords) {
  const std::vector<std::string> atoms = {" ",      "\n", "  ",   "a", "'s",  "é",
                                          "\u00a0", "。", "\xff", "1", "\x82"};
  Dice dice(2);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (uint32_t n = 1 + dice.below(12); n > 0; --n) {
      text += atoms[dice.below(static_cast<uint32_t>(atoms.size()))];
    }
    const Words whole = split_words(text);
    const size_t from = dice.below(static_cast<uint32_t>(text.size()));
    for (const size_t cut : {safe_cut(text, from), last_safe_cut(text, from)}) {
      Words parts = split_words(std::string_view(text).substr(0, cut));
      const Words rest = split_words(std::string_view(text).substr(cut));
      parts.insert(parts.end(), rest.begin(), rest.end());
      ASSERT_EQ(parts, whole) << testing::PrintToString(text) << " cut at " << cut;
    }
  }
}

TEST(Split, EqualsTheRegularExpressionOnBooks) {
  PM_NEEDS_SHARED("text/udhr_multilingual.txt");
  expect_same_words(read_file(shared_path("text/udhr_multilingual.txt")));
  for (const char* name : {"text/novels.txt.gz", "text/adventure_scifi.txt.gz"}) {
    if (path_exists(shared_path(name))) expect_same_words(read_gz(shared_path(name)));
  }
}

}  // namespace
}  // namespace pyramoe::data
