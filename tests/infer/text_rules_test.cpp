// Python's string rules, against values that Python 3 gave.
#include "infer/tasks/text_rules.h"

#include <gtest/gtest.h>

namespace pyramoe::infer {
namespace {

TEST(TextRules, StripsUnicodeWhiteSpace) {
  EXPECT_EQ(rstripped_size("a b \n\t"), 3u);
  EXPECT_EQ(rstripped_size("a\xC2\xA0\xE3\x80\x80"), 1u);  // U+00A0, U+3000
  EXPECT_EQ(rstripped_size("a\x1c"), 1u);
  EXPECT_EQ(rstripped_size("a\xE2\x80\x8B"), 4u);  // U+200B is no white space
  EXPECT_EQ(rstripped_size(""), 0u);
  EXPECT_EQ(rstripped_size(" \n"), 0u);
  EXPECT_EQ(lstrip("  \xC2\x85x "), "x ");
  EXPECT_EQ(lstrip(" "), "");
}

TEST(TextRules, CountsCharacters) {
  EXPECT_EQ(count_characters(""), 0);
  EXPECT_EQ(count_characters("abc"), 3);
  EXPECT_EQ(count_characters("na\xC3\xAFve \xF0\x9F\x98\x80"), 7);
  EXPECT_EQ(count_characters("\xFFz"), 2);
}

TEST(TextRules, LowersLetters) {
  EXPECT_EQ(lower("ABC xyz 12"), "abc xyz 12");
  EXPECT_EQ(lower("ÀÖ×Þß"), "àö×þß");
  EXPECT_EQ(lower("ĀŁŸŹſ"), "āłÿźſ");
  EXPECT_EQ(lower("ΆΈΌΏΑΩ"), "άέόώαω");
  EXPECT_EQ(lower("ЀЏАЯ"), "ѐџая");
  EXPECT_EQ(lower("\xFF"), "\xFF");
}

TEST(TextRules, ComparesAnswersWithoutCaseAndPunctuation) {
  EXPECT_EQ(normalised_answer("The \"U.S.A.\"!"), "the usa");
  EXPECT_EQ(without_punctuation("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~a"), "a");
  EXPECT_EQ(without_punctuation("it’s"), "it’s");  // ASCII only
}

TEST(TextRules, RemovesCsvQuotes) {
  EXPECT_EQ(without_csv_quotes("\"Who wrote \"\"A b\"\"?\""), "Who wrote \"A b\"?");
  EXPECT_EQ(without_csv_quotes("\"plain\""), "plain");
  EXPECT_EQ(without_csv_quotes("no quotes"), "no quotes");
  EXPECT_EQ(without_csv_quotes("\"a\" and \"b\""), "\"a\" and \"b\"");
  EXPECT_EQ(without_csv_quotes("\""), "\"");
  EXPECT_EQ(without_csv_quotes("\"\""), "");
}

TEST(TextRules, DropsAnswersThatBeginWithTheOneBefore) {
  using Texts = std::vector<std::string>;
  EXPECT_EQ(without_prefixed({"b", "ab", "a", "abc"}), (Texts{"a", "b"}));
  EXPECT_EQ(without_prefixed({"Jamaican English", "Jamaican Creole"}),
            (Texts{"Jamaican Creole", "Jamaican English"}));
  EXPECT_EQ(without_prefixed({"x", "x"}), Texts{"x"});
  EXPECT_EQ(without_prefixed({}), Texts{});
}

}  // namespace
}  // namespace pyramoe::infer
