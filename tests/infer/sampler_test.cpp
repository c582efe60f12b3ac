// Who can be chosen, how often, and that nothing but seed, text and position decides.
#include "infer/sampler.h"

#include <cmath>
#include <limits>

#include "tests/infer/support.h"

namespace pyramoe::infer {
namespace {

Tensor row(const std::vector<double>& logits) {
  return Tensor::from(logits, {1, static_cast<int64_t>(logits.size())});
}

// How often each token comes in `n` draws.
std::vector<double> shares(const SampleOptions& options, const Tensor& logits, int64_t n = 20000) {
  Sampler sampler(options);
  std::vector<double> count(static_cast<size_t>(logits.numel()), 0);
  for (int64_t i = 0; i < n; ++i) {
    count[static_cast<size_t>(sampler.choose(logits, logits.numel(), i % 7, i))] +=
        1.0 / static_cast<double>(n);
  }
  return count;
}

const Tensor kLogits = row({std::log(0.1), std::log(0.4), std::log(0.2), std::log(0.3)});

TEST(Sampler, TakesTheLikeliestAtTemperatureZero) {
  Sampler greedy({.temperature = 0, .top_k = 0, .top_p = 1, .seed = 1});
  EXPECT_EQ(greedy.choose(kLogits, 4, 0, 0), 1);
  EXPECT_EQ(greedy.choose(row({2, 5, 5, 1}), 4, 0, 0), 1);  // ties: the lower token
  EXPECT_EQ(greedy.choose(row({2, 5, 5, 9}), 3, 0, 0), 1);  // padding is no token
}

TEST(Sampler, DrawsWithTheModelsProbabilities) {
  const auto p = shares({.temperature = 1, .top_k = 0, .top_p = 1, .seed = 3}, kLogits);
  EXPECT_NEAR(p[0], 0.1, 0.015);
  EXPECT_NEAR(p[1], 0.4, 0.015);
  EXPECT_NEAR(p[2], 0.2, 0.015);
  EXPECT_NEAR(p[3], 0.3, 0.015);
}

TEST(Sampler, SharpensWithLowTemperature) {
  const auto p = shares({.temperature = 0.5, .top_k = 0, .top_p = 1, .seed = 3}, kLogits);
  EXPECT_NEAR(p[1], 0.16 / 0.30, 0.015);  // squares: 0.01 0.16 0.04 0.09
}

TEST(Sampler, KeepsTheTopK) {
  const auto p = shares({.temperature = 1, .top_k = 2, .top_p = 1, .seed = 3}, kLogits);
  EXPECT_EQ(p[0] + p[2], 0);
  EXPECT_NEAR(p[1], 4.0 / 7, 0.015);
  const auto tie = shares({.temperature = 1, .top_k = 2, .top_p = 1, .seed = 3}, row({1, 1, 1}));
  EXPECT_EQ(tie[2], 0);
}

TEST(Sampler, KeepsTheFewestThatHoldTopP) {
  const auto two = shares({.temperature = 1, .top_k = 0, .top_p = 0.65, .seed = 3}, kLogits);
  EXPECT_EQ(two[0] + two[2], 0);
  EXPECT_NEAR(two[1], 4.0 / 7, 0.015);  // of what is left
  // A share that is reached exactly needs no more.
  const auto half =
      shares({.temperature = 1, .top_k = 0, .top_p = 0.5, .seed = 3}, row({0, 0, 0, 0}));
  EXPECT_EQ(half[2] + half[3], 0);
  // The share is of the sharpened probabilities: 0.16 and 0.09 of 0.30.
  const auto cold = shares({.temperature = 0.5, .top_k = 0, .top_p = 0.8, .seed = 3}, kLogits);
  EXPECT_EQ(cold[0] + cold[2], 0);
  EXPECT_NEAR(cold[1], 0.16 / 0.25, 0.015);
  const auto three = shares({.temperature = 1, .top_k = 0, .top_p = 0.75, .seed = 3}, kLogits);
  EXPECT_EQ(three[0], 0);
  EXPECT_GT(three[2], 0.1);
  const auto one = shares({.temperature = 1, .top_k = 0, .top_p = 1e-9, .seed = 3}, kLogits);
  EXPECT_NEAR(one[1], 1, 1e-9);
}

TEST(Sampler, DependsOnSeedSampleAndPositionOnly) {
  const SampleOptions options{.temperature = 1, .top_k = 3, .top_p = 0.99, .seed = 5};
  Sampler a(options), b(options);
  SampleOptions other = options;
  other.seed = 6;
  Sampler c(other);
  int64_t differ_seed = 0, differ_sample = 0, differ_position = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const int32_t token = a.choose(kLogits, 4, 2, i);
    b.choose(kLogits, 4, 9, 199 - i);  // what else is drawn does not matter
    EXPECT_EQ(token, b.choose(kLogits, 4, 2, i));
    differ_seed += token != c.choose(kLogits, 4, 2, i);
    differ_sample += token != a.choose(kLogits, 4, 3, i);
    differ_position += token != a.choose(kLogits, 4, 2, i + 1000);
  }
  EXPECT_GT(differ_seed, 50);
  EXPECT_GT(differ_sample, 50);
  EXPECT_GT(differ_position, 50);
}

TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature, .top_k = 0, .top_p = 1, .seed = 1});
    for (const auto& bad : {row({1, kNan}), row({kNan, 1}), row({kInf, 1}), row({-kInf, -kInf})}) {
      EXPECT_EQ(exit_of([&] { sampler.choose(bad, 2, 0, 0); }, "logit of token"), Exit::non_finite);
    }
    EXPECT_EQ(sampler.choose(row({-kInf, 1}), 2, 0, 0), 1);
  }
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  const auto make = [](double temperature, int64_t k, double p) {
    Sampler sampler({.temperature = temperature, .top_k = k, .top_p = p, .seed = 1});
  };
  EXPECT_EQ(exit_of([&] { make(-0.1, 0, 1); }, "temperature"), Exit::config);
  EXPECT_EQ(exit_of([&] { make(std::nan(""), 0, 1); }, "temperature"), Exit::config);
  EXPECT_EQ(exit_of([&] { make(1, -1, 1); }, "top-k"), Exit::config);
  EXPECT_EQ(exit_of([&] { make(1, 0, 0); }, "top-p"), Exit::config);
  EXPECT_EQ(exit_of([&] { make(1, 0, 1.1); }, "top-p"), Exit::config);
}

}  // namespace
}  // namespace pyramoe::infer
