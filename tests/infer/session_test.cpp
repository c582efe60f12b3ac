// Reading with a cache is reading at once; a row never feels its neighbours.
#include "infer/session.h"

#include <algorithm>

#include "tests/infer/support.h"

namespace pyramoe::infer {
namespace {

class EveryFamily : public ::testing::TestWithParam<size_t> {
 protected:
  const Family& family() const { return families()[GetParam()]; }
};

// The last row of logits (T, V) as (1, V).
Tensor last_row(const Tensor& logits) { return logits.rows(logits.dim(0) - 1, logits.dim(0)); }

double worst(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  double most = x.size() == y.size() ? 0 : 1e300;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    most = std::max(most, std::abs(x[i] - y[i]));
  }
  return most;
}

TEST_P(EveryFamily, DecodesAsTheFullForward) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    auto model = tiny_model(family(), dtype);
    const Tokens text = random_tokens(24, 61, 1);
    const Tensor whole = full_logits(*model, text);
    Session session(*model, 1, 24);
    const Tokens head(text.begin(), text.begin() + 5);
    Tensor logits = session.prefill({head});
    for (size_t t = 4;; ++t) {
      const auto at = static_cast<int64_t>(t);
      const Tensor expected = whole.rows(at, at + 1);
      EXPECT_LE(worst(logits, expected), dtype == DType::f64 ? 1e-12 : 1e-4) << t;
      EXPECT_TRUE(same_bits(logits, expected)) << to_string(dtype) << " token " << t;
      if (t + 1 == text.size()) break;
      logits = session.step(std::span(&text[t + 1], 1));
    }
    EXPECT_TRUE(session.full(0));
  }
}

TEST_P(EveryFamily, RowsOfDifferentLengthsDoNotMix) {
  auto model = tiny_model(family(), DType::f32);
  const std::vector<int64_t> lengths = {3, 11, 1, 7, 8};
  std::vector<Tokens> texts;
  for (size_t b = 0; b < lengths.size(); ++b) {
    texts.push_back(random_tokens(lengths[b], 61, 10 + b));
  }
  Session together(*model, 5, 20);
  Tensor all = together.prefill(texts);
  for (int64_t t = 0; t < 6; ++t) {
    Tokens next;
    for (size_t b = 0; b < texts.size(); ++b) {
      const auto i = static_cast<int64_t>(b);
      EXPECT_TRUE(same_bits(all.rows(i, i + 1), last_row(full_logits(*model, texts[b]))))
          << "row " << b << " after " << t;
      next.push_back(static_cast<int32_t>((b * 7 + static_cast<size_t>(t) * 13) % 61));
      texts[b].push_back(next.back());
    }
    all = together.step(next);
  }
}

TEST_P(EveryFamily, RestingRowsLeaveNoTrace) {
  auto model = tiny_model(family(), DType::f32);
  const std::vector<Tokens> texts = {random_tokens(4, 61, 1), random_tokens(9, 61, 2)};
  Session session(*model, 2, 16);
  session.prefill(texts);
  Tokens text = texts[1];
  for (int32_t token = 0; token < 5; ++token) {
    text.push_back(token);
    const Tensor logits = session.step(Tokens{60, token}, {false, true});
    EXPECT_TRUE(same_bits(logits.rows(1, 2), last_row(full_logits(*model, text))));
  }
  EXPECT_EQ(session.length(1), 14);
}

TEST_P(EveryFamily, ARowCanBeReplaced) {
  auto model = tiny_model(family(), DType::f32);
  Session session(*model, 2, 16);
  Tokens stays = random_tokens(9, 61, 2), fresh = random_tokens(3, 61, 3);
  session.prefill({random_tokens(4, 61, 1), stays});
  Session one(*model, 1, 16);
  one.prefill({fresh});
  session.adopt(0, one);
  fresh.push_back(8);
  stays.push_back(9);
  const Tensor logits = session.step(Tokens{8, 9});
  EXPECT_TRUE(same_bits(logits.rows(0, 1), last_row(full_logits(*model, fresh))));
  EXPECT_TRUE(same_bits(logits.rows(1, 2), last_row(full_logits(*model, stays))));
}

INSTANTIATE_TEST_SUITE_P(Session, EveryFamily, ::testing::Range<size_t>(0, 4),
                         [](const auto& row) { return families()[row.param].name; });

TEST(Session, GivesLogitsOfTheTokenizersTokensOnly) {
  auto model = tiny_model(families()[0], DType::f32);
  const Tokens text = random_tokens(6, 50, 1);
  Session padded(*model, 1, 8), cut(*model, 1, 8, kCpu, 50);
  const Tensor all = padded.prefill({text}), some = cut.prefill({text});
  ASSERT_EQ(some.dim(1), 50);
  for (int64_t v = 0; v < 50; ++v) EXPECT_EQ(all.data<float>()[v], some.data<float>()[v]);
}

TEST(Session, KeepsTheChoicesOfARow) {
  auto model = tiny_model(families()[2], DType::f32);  // blocks 0 and 2 have experts, top-2
  Session session(*model, 2, 12);
  session.keep_choices(true);
  const Tokens text = random_tokens(6, 61, 4);
  session.prefill({random_tokens(9, 61, 5), text});
  const auto together = session.choices(2, 1);
  ASSERT_EQ(together.size(), 6u);
  Session alone(*model, 1, 12);
  alone.keep_choices(true);
  alone.prefill({text});
  EXPECT_EQ(together, alone.choices(2, 0));
  for (const auto& experts : together) {
    ASSERT_EQ(experts.size(), 2u);
    EXPECT_NE(experts[0], experts[1]);
  }
  EXPECT_TRUE(session.choices(1, 1).empty());  // a dense block
}

TEST(Session, RefusesMoreThanItHolds) {
  auto model = tiny_model(families()[0], DType::f32);
  EXPECT_EQ(exit_of([&] { Session session(*model, 1, 25); }, "model.context 24"), Exit::bug);
  Session session(*model, 1, 3);
  EXPECT_EQ(exit_of([&] { session.prefill({Tokens{1, 2, 3, 4}}); }, "expected 1 to 3"), Exit::bug);
  EXPECT_EQ(exit_of([&] { session.prefill({Tokens{}}); }, "expected 1 to 3"), Exit::bug);
  session.prefill({Tokens{1, 2, 3}});
  EXPECT_EQ(exit_of([&] { session.step(Tokens{1}); }, "is full"), Exit::bug);
}

}  // namespace
}  // namespace pyramoe::infer
