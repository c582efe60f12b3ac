// What a user sees: same seed same text, stops, streams of whole characters, texts past the
// context.
#include "infer/generate.h"

#include <algorithm>
#include <set>

#include "data/utf8.h"
#include "infer/show_experts.h"
#include "tests/infer/support.h"

namespace pyramoe::infer {
namespace {

constexpr int64_t kVocab = 257;  // bytes and the end of text

struct Fixture {
  explicit Fixture(size_t family = 0, uint64_t seed = 7)
      : model(tiny_model(families()[family], DType::f32, kVocab, seed)),
        tokenizer(data::make_byte_tokenizer()) {}
  std::vector<Generated> run(const std::vector<std::string>& prompts,
                             const GenerateOptions& options, const OnText& on_text = {}) const {
    std::vector<Tokens> tokens;
    for (const std::string& prompt : prompts) tokens.push_back(tokenizer->encode(prompt));
    return generate(*model, *tokenizer, tokens, options, kCpu, on_text);
  }
  std::unique_ptr<nn::Gpt> model;
  std::unique_ptr<data::Tokenizer> tokenizer;
};

GenerateOptions options_of(int64_t tokens, double temperature = 1) {
  GenerateOptions options;
  options.tokens = tokens;
  options.sample = {.temperature = temperature, .top_k = 0, .top_p = 1, .seed = 11};
  options.stop_at_end_of_text = false;
  return options;
}

TEST(Generate, SameSeedSameTextWhateverTheBatch) {
  for (size_t family = 0; family < families().size(); ++family) {
    const Fixture fixture(family);
    const std::vector<std::string> prompts = {"ab", "a longer prompt", "x", "ab"};
    GenerateOptions options = options_of(14);
    const std::vector<Generated> together = fixture.run(prompts, options);
    for (size_t i = 0; i < prompts.size(); ++i) {
      options.first_sample = static_cast<int64_t>(i);
      const Generated alone = fixture.run({prompts[i]}, options)[0];
      EXPECT_EQ(alone.tokens, together[i].tokens) << families()[family].name << " row " << i;
    }
    EXPECT_NE(together[0].tokens, together[3].tokens);  // samples of one prompt differ
    options.sample.seed = 12;
    options.first_sample = 0;
    EXPECT_NE(fixture.run({prompts[0]}, options)[0].tokens, together[0].tokens);
  }
}

// A table of tokens is often padded: what the tokenizer does not know is never chosen.
TEST(Generate, NeverSaysATokenThatIsPadding) {
  const auto model = tiny_model(families()[0], DType::f32, 2 * kVocab);
  const auto tokenizer = data::make_byte_tokenizer();
  const auto texts = generate(*model, *tokenizer, {{1}, {2}, {3}, {4}}, options_of(16, 1e6), kCpu);
  for (const Generated& text : texts) {
    for (const int32_t token : text.tokens) EXPECT_LT(token, kVocab);
  }
}

TEST(Generate, GreedyIsTheLikeliestOfTheFullForward) {
  const Fixture fixture(3);
  const Generated text = fixture.run({"hello"}, options_of(12, 0))[0];
  Tokens all = text.prompt;
  for (const int32_t token : text.tokens) {
    const Tensor logits = full_logits(*fixture.model, all);
    EXPECT_EQ(token, greedy_token(logits.rows(logits.dim(0) - 1, logits.dim(0)), kVocab));
    all.push_back(token);
  }
  EXPECT_EQ(text.text, fixture.tokenizer->decode(text.tokens));
  EXPECT_EQ(text.finish, Finish::length);
}

TEST(Generate, GoesOnPastTheContextFromItsNewestHalf) {
  const Fixture fixture(1);
  const std::vector<Generated> texts =
      fixture.run({"a prompt of twenty-two ch", "short"}, options_of(60, 0));
  for (const Generated& text : texts) {
    ASSERT_EQ(text.tokens.size(), 60u);
    Tokens window = text.prompt;
    for (const int32_t token : text.tokens) {
      const Tensor logits = full_logits(*fixture.model, window);
      EXPECT_EQ(token, greedy_token(logits.rows(logits.dim(0) - 1, logits.dim(0)), kVocab));
      if (window.size() == 24) window.erase(window.begin(), window.begin() + 13);
      window.push_back(token);
    }
  }
  EXPECT_EQ(texts[0].prompt.size(), 24u);  // the first character is cut
}

TEST(Generate, EndsBeforeAStopString) {
  const Fixture fixture;
  const std::string whole = fixture.run({"go"}, options_of(20))[0].text;
  GenerateOptions options = options_of(20);
  const std::string stop = whole.substr(6, 3);
  options.stops = {"never to be found", stop};
  const size_t first = whole.find(stop);
  std::string streamed;
  const Generated text = fixture.run({"go"}, options, [&](int64_t row, std::string_view piece) {
    EXPECT_EQ(row, 0);
    streamed += piece;
  })[0];
  EXPECT_EQ(text.text, whole.substr(0, first));
  EXPECT_EQ(streamed, text.text);
  EXPECT_EQ(text.finish, Finish::stop);
}

TEST(Generate, EndsAtTheEndOfText) {
  const Fixture fixture;
  // A seed whose text meets the end-of-text token early: the first that does.
  GenerateOptions options = options_of(200);
  for (options.sample.seed = 1; options.sample.seed < 50; ++options.sample.seed) {
    options.stop_at_end_of_text = false;
    const Generated on = fixture.run({"q"}, options)[0];
    const auto found = std::find(on.tokens.begin(), on.tokens.end(), 256);
    if (found == on.tokens.end()) continue;
    options.stop_at_end_of_text = true;
    const Generated cut = fixture.run({"q"}, options)[0];
    EXPECT_EQ(cut.tokens, Tokens(on.tokens.begin(), found));
    EXPECT_EQ(cut.finish, Finish::end_of_text);
    return;
  }
  FAIL() << "no text met the end of text";
}

TEST(Generate, StreamsWholeCharactersOnly) {
  const Fixture fixture;
  GenerateOptions options = options_of(300);
  for (uint64_t seed = 0; seed < 5; ++seed) {
    options.sample.seed = seed;
    std::string streamed;
    std::set<size_t> shown;
    const Generated text = fixture.run({"s"}, options, [&](int64_t, std::string_view piece) {
      streamed += piece;
      shown.insert(streamed.size());
    })[0];
    // Every piece ends where a character of the whole text ends.
    const char* end = streamed.data() + streamed.size();
    for (const char* p = streamed.data(); p < end;) {
      p += std::max(1, data::decode_utf8(p, end).length);
      shown.erase(static_cast<size_t>(p - streamed.data()));
    }
    EXPECT_TRUE(shown.empty()) << seed;
    EXPECT_EQ(streamed, text.text);
  }
}

TEST(Generate, HoldsBackWhatMayBecomeAStop) {
  EXPECT_EQ(possible_stop("hello wor", {"world"}), 3u);
  EXPECT_EQ(possible_stop("hello", {"world", "lo there"}), 2u);
  EXPECT_EQ(possible_stop("aab", {"aabaac"}), 3u);
  EXPECT_EQ(possible_stop("world", {"world"}), 0u);  // found already, not half found
  EXPECT_EQ(possible_stop("", {"x"}), 0u);
}

TEST(Generate, StartsFromNothing) {
  const Fixture fixture;
  EXPECT_EQ(start_token(*fixture.tokenizer), Tokens{256});
  EXPECT_EQ(start_token(*data::make_char_tokenizer("ab\n")), Tokens{0});  // '\n' sorts first
  EXPECT_EQ(start_token(*data::make_char_tokenizer("ab")), Tokens{0});
  EXPECT_EQ(fixture.run({""}, options_of(3))[0].tokens.size(), 3u);
  const Generated none = fixture.run({"p"}, options_of(0))[0];
  EXPECT_TRUE(none.tokens.empty() && none.text.empty());
}

TEST(Generate, TellsTheExpertsOfEveryToken) {
  const Fixture fixture(2);
  GenerateOptions options = options_of(40);  // past the context
  options.expert_layer = 2;
  const Generated text = fixture.run({"abc", "de"}, options)[0];
  ASSERT_EQ(text.experts.size(), text.prompt.size() + text.tokens.size());
  for (const auto& experts : text.experts) EXPECT_EQ(experts.size(), 2u);
  options.expert_layer = -1;
  EXPECT_EQ(fixture.run({"abc", "de"}, options)[0].tokens, text.tokens);
}

TEST(Generate, RefusesOptionsOutOfRange) {
  const Fixture fixture;
  GenerateOptions options = options_of(-1);
  EXPECT_EQ(exit_of([&] { fixture.run({"a"}, options); }, "tokens"), Exit::config);
  options = options_of(1);
  options.stops = {""};
  EXPECT_EQ(exit_of([&] { fixture.run({"a"}, options); }, "empty stop"), Exit::config);
  options = options_of(1);
  options.expert_layer = 3;
  EXPECT_EQ(exit_of([&] { fixture.run({"a"}, options); }, "layers 0 to 2"), Exit::config);
}

TEST(ShowExperts, NamesTheExpertWhereColoursAreOff) {
  const auto tokenizer = data::make_byte_tokenizer();
  Generated text;
  text.prompt = tokenizer->encode("a");
  text.tokens = tokenizer->encode("\xC3\xA4!");
  text.experts = {{3}, {1}, {2}, {0}};
  EXPECT_EQ(text_with_experts(text, *tokenizer, false), "a[3]\xC3\xA4[1]![0]");
  text.experts = {{3, 1}, {1, 0}, {2, 0}, {0, 2}};
  EXPECT_EQ(text_with_experts(text, *tokenizer, false), "a[3+1]\xC3\xA4[1+0]![0+2]");
}

TEST(ShowExperts, PaintsTokensButNotLineEnds) {
  const auto tokenizer = data::make_byte_tokenizer();
  Generated text;
  text.prompt = tokenizer->encode("a\n");
  text.experts = {{0}, {1}};
  const std::string painted = text_with_experts(text, *tokenizer, true);
  EXPECT_TRUE(painted.starts_with("\x1b[48;5;")) << painted;
  EXPECT_TRUE(painted.ends_with("a\x1b[0m\n")) << painted;
  for (int32_t e = 0; e < 256; ++e) {
    EXPECT_GE(expert_colour(e), 16);
    EXPECT_LE(expert_colour(e), 231);
    EXPECT_NE(expert_colour(e), expert_colour(e + 1));
  }
}

TEST(ShowExperts, FindsTheBlock) {
  EXPECT_EQ(expert_layer(tiny_config(families()[2]), -1), 2);
  EXPECT_EQ(expert_layer(tiny_config(families()[2]), 0), 0);
  EXPECT_EQ(exit_of([] { expert_layer(tiny_config(families()[2]), 1); }, "these do: 0, 2"),
            Exit::config);
  EXPECT_EQ(exit_of([] { expert_layer(tiny_config(families()[0]), -1); }, "dense"), Exit::config);
}

}  // namespace
}  // namespace pyramoe::infer
