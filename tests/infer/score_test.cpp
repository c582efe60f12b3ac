// Scores against a plain full forward pass, and bitwise equal for any batch.
#include "infer/score.h"

#include <algorithm>
#include <cmath>

#include "data/bpe.h"
#include "infer/generate.h"
#include "tests/infer/support.h"

namespace pyramoe::infer {
namespace {

ScoreRequest random_request(uint64_t seed, int64_t vocab) {
  data::Dice dice(seed);
  const auto context = static_cast<int64_t>(1 + dice.below(30));
  const auto continuation = static_cast<int64_t>(1 + dice.below(8));
  return {random_tokens(context, vocab, seed * 2 + 1),
          random_tokens(continuation, vocab, seed * 2)};
}

// The score by hand: softmax of the full logits in long double, token by token.
Score by_hand(nn::Gpt& model, const ScoreRequest& request, int64_t vocab) {
  Tokens all = request.context;
  all.insert(all.end(), request.continuation.begin(), request.continuation.end());
  const size_t limit = static_cast<size_t>(model.options().context) + 1;
  if (all.size() > limit) all.erase(all.begin(), all.end() - static_cast<ptrdiff_t>(limit));
  const Tokens input(all.begin(), all.end() - 1);
  const Tensor logits = full_logits(model, input);
  Score score;
  score.greedy = true;
  for (size_t i = all.size() - request.continuation.size(); i < all.size(); ++i) {
    const double* row = logits.data<double>() + static_cast<int64_t>(i - 1) * logits.dim(1);
    long double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<long double>(row[v]));
    score.log_likelihood += static_cast<double>(row[all[i]] - std::log(sum));
    score.greedy = score.greedy && std::max_element(row, row + vocab) - row == all[i];
  }
  return score;
}

TEST(Score, EqualsAFullForward) {
  for (const Family& family : families()) {
    auto model = tiny_model(family);
    std::vector<ScoreRequest> requests;
    for (uint64_t i = 0; i < 40; ++i) requests.push_back(random_request(i, 50));
    for (const int64_t vocab : {61, 50}) {  // 50: eleven rows of padding
      // Some continuations are what the model would say.
      for (size_t i = 0; i < 10; ++i) {
        const Tokens cut(requests[i].context.end() - static_cast<ptrdiff_t>(std::min<size_t>(
                                                         20, requests[i].context.size())),
                         requests[i].context.end());
        const Tensor logits = full_logits(*model, cut);
        requests[i] = {cut, {greedy_token(logits.rows(logits.dim(0) - 1, logits.dim(0)), 50)}};
      }
      const std::vector<Score> scores = score(*model, vocab, requests, 4);
      int64_t greedy = 0;
      for (size_t i = 0; i < requests.size(); ++i) {
        const Score expected = by_hand(*model, requests[i], vocab);
        EXPECT_NEAR(scores[i].log_likelihood, expected.log_likelihood, 1e-10) << family.name << i;
        EXPECT_EQ(scores[i].greedy, expected.greedy) << family.name << i;
        EXPECT_FALSE(scores[i].cut);
        greedy += scores[i].greedy;
      }
      EXPECT_GE(greedy, 5);
    }
  }
}

TEST(Score, IsGreedyOnlyWhereEveryTokenIs) {
  auto model = tiny_model(families()[0]);
  const Tokens context = random_tokens(6, 61, 1);
  const auto likeliest = [&](const Tokens& text) {
    const Tensor logits = full_logits(*model, text);
    return greedy_token(logits.rows(logits.dim(0) - 1, logits.dim(0)), 61);
  };
  for (const size_t wrong : {0, 1, 2, 3}) {  // 3: none
    Tokens text = context;
    for (size_t i = 0; i < 3; ++i) {
      const int32_t best = likeliest(text);
      text.push_back(i == wrong ? (best + 1) % 61 : best);
    }
    const Tokens said(text.end() - 3, text.end());
    EXPECT_EQ(score(*model, 0, {{context, said}})[0].greedy, wrong == 3) << wrong;
  }
}

TEST(Score, HasTheSameBitsForAnyBatchAndOrder) {
  for (const Family& family : families()) {
    auto model = tiny_model(family, DType::f32);
    std::vector<ScoreRequest> requests;
    for (uint64_t i = 0; i < 25; ++i) requests.push_back(random_request(i, 61));
    const std::vector<Score> one = score(*model, 0, requests, 1);
    for (const int64_t batch : {0, 2, 3, 7, 25}) {
      const std::vector<Score> many = score(*model, 0, requests, batch);
      for (size_t i = 0; i < one.size(); ++i) {
        EXPECT_EQ(one[i].log_likelihood, many[i].log_likelihood) << family.name << " " << batch;
        EXPECT_EQ(one[i].greedy, many[i].greedy);
      }
    }
    std::vector<ScoreRequest> reversed(requests.rbegin(), requests.rend());
    const std::vector<Score> back = score(*model, 0, reversed, 4);
    for (size_t i = 0; i < one.size(); ++i) {
      EXPECT_EQ(one[i].log_likelihood, back[one.size() - 1 - i].log_likelihood);
    }
  }
}

TEST(Score, CutsLongRequestsFromTheLeft) {
  auto model = tiny_model(families()[0]);  // context 24
  ScoreRequest request{random_tokens(40, 61, 1), random_tokens(5, 61, 2)};
  const Score cut = score(*model, 0, {request})[0];
  request.context.erase(request.context.begin(), request.context.begin() + 20);  // 20 + 5 - 1 = 24
  EXPECT_EQ(score(*model, 0, {request})[0].log_likelihood, cut.log_likelihood);
  EXPECT_FALSE(cut.cut);
  request.continuation = random_tokens(30, 61, 3);
  const Score longer = score(*model, 0, {request})[0];
  EXPECT_TRUE(longer.cut);
  EXPECT_EQ(longer.tokens, 24);
}

TEST(Score, RefusesAModelThatIsNotANumber) {
  auto model = tiny_model(families()[0], DType::f32);
  for (const nn::Parameter* parameter : model->parameters()) {
    if (parameter->name == "norm.bias") parameter->var.value().data<float>()[0] = NAN;
  }
  EXPECT_EQ(exit_of([&] { score(*model, 0, {{{1}, {2}}}); }, "log-likelihood"), Exit::non_finite);
}

TEST(Score, SplitsTextAsLmEvalDoes) {
  const auto tokenizer = data::make_byte_tokenizer();
  const auto tokens = [&](const char* text) { return tokenizer->encode(text); };
  ScoreRequest request = encode_request(*tokenizer, "ab", " c");
  EXPECT_EQ(request.context, tokens("ab"));
  EXPECT_EQ(request.continuation, tokens(" c"));
  request = encode_request(*tokenizer, "ab \n", "c");  // blanks move over
  EXPECT_EQ(request.context, tokens("ab"));
  EXPECT_EQ(request.continuation, tokens(" \nc"));
  for (const char* nothing : {"", " ", " \n"}) {  // the blanks move over
    request = encode_request(*tokenizer, nothing, " c");
    EXPECT_EQ(request.context, Tokens{256});
    EXPECT_EQ(request.continuation, tokens((std::string(nothing) + " c").c_str()));
  }
  // The mark is the special token, in both parts; a start is not repeated.
  request = encode_request(*tokenizer, "a<|endoftext|>", "b<|endoftext|>");
  EXPECT_EQ(request.context, (Tokens{'a', 256}));
  EXPECT_EQ(request.continuation, (Tokens{'b', 256}));
  request = encode_request(*tokenizer, "", "<|endoftext|>b");
  EXPECT_EQ(request.context, Tokens{256});
  EXPECT_EQ(request.continuation, Tokens{'b'});
}

TEST(Score, GivesTheContinuationWhatItSharesWithTheContext) {
  PM_NEEDS_SHARED("tokenizer/gpt2_encoder.json");
  const auto tokenizer =
      data::make_bpe_tokenizer(data::Bpe::load(data::shared_path("tokenizer/gpt2_encoder.json"),
                                               data::shared_path("tokenizer/gpt2_vocab.bpe")));
  // "Answer:" + " yes": the blank belongs to " yes", one token (3763).
  const ScoreRequest plain = encode_request(*tokenizer, "Answer:", " yes");
  EXPECT_EQ(plain.continuation, Tokens{3763});
  EXPECT_EQ(plain.context, tokenizer->encode("Answer:"));
  // A blank left at the context's end would have been a token of its own.
  EXPECT_EQ(encode_request(*tokenizer, "Answer: ", "yes").continuation, Tokens{3763});
}

TEST(Score, SortsIntoBatches) {
  using Batches = std::vector<std::vector<size_t>>;
  EXPECT_EQ(batches_by_length({5, 9, 5, 1}, 2), (Batches{{1, 0}, {2, 3}}));
  EXPECT_EQ(batches_by_length({kTokensPerPass, kTokensPerPass / 2, 1, 1}, 0),
            (Batches{{0}, {1, 2}, {3}}));
  EXPECT_EQ(batches_by_length({}, 3), Batches{});
}

TEST(Answers, DoNotDependOnTheBatch) {
  auto model = tiny_model(families()[3], DType::f32, 257);
  const auto tokenizer = data::make_byte_tokenizer();
  std::vector<Tokens> contexts;
  for (uint64_t i = 0; i < 9; ++i) {
    contexts.push_back(random_tokens(static_cast<int64_t>(1 + 5 * i), 256, i));
  }
  const std::vector<std::string> until = {"\n", ".", ","};
  const auto one = answer_greedily(*model, *tokenizer, contexts, until, 12, 1);
  EXPECT_EQ(one, answer_greedily(*model, *tokenizer, contexts, until, 12, 4));
  EXPECT_EQ(one, answer_greedily(*model, *tokenizer, contexts, until, 12));
  // An answer ends before the first stop: what comes without any says where.
  const auto free = answer_greedily(*model, *tokenizer, contexts, {}, 12, 1);
  for (size_t i = 0; i < free.size(); ++i) {
    const std::string stop = free[i].substr(free[i].size() / 2, 1);
    EXPECT_EQ(answer_greedily(*model, *tokenizer, {contexts[i]}, {stop}, 12, 1)[0],
              free[i].substr(0, free[i].find(stop)));
  }
  // A context is cut so that the answer fits: 24 - 12 tokens are read.
  const Tokens tail(contexts[8].end() - 12, contexts[8].end());
  EXPECT_EQ(answer_greedily(*model, *tokenizer, {tail}, until, 12, 1)[0], one[8]);
}

}  // namespace
}  // namespace pyramoe::infer
