// Quantiles against printed tables, intervals by hand, and how often an interval of simulated
// numbers contains the truth.
#include "lab/statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "core/error.h"

namespace pyramoe::lab {
namespace {

TEST(Statistics, IncompleteBetaHasItsClosedForms) {
  for (const double x : {0.001, 0.1, 0.3, 0.5, 0.77, 0.999}) {
    EXPECT_NEAR(incomplete_beta(1, 1, x), x, 1e-14);
    EXPECT_NEAR(incomplete_beta(3, 1, x), x * x * x, 1e-14);
    EXPECT_NEAR(incomplete_beta(1, 4, x), 1 - std::pow(1 - x, 4), 1e-14);
    EXPECT_NEAR(incomplete_beta(0.5, 0.5, x), 2 / M_PI * std::asin(std::sqrt(x)), 1e-13);
    EXPECT_NEAR(incomplete_beta(2.5, 7, x) + incomplete_beta(7, 2.5, 1 - x), 1, 1e-14);
    // I_x(2, 3): P(at least 2 of 4 with chance x each).
    const double y = 1 - x;
    EXPECT_NEAR(incomplete_beta(2, 3, x), 1 - y * y * y * y - 4 * x * y * y * y, 1e-14);
  }
  EXPECT_EQ(incomplete_beta(2, 3, 0), 0);
  EXPECT_EQ(incomplete_beta(2, 3, 1), 1);
  EXPECT_NEAR(incomplete_beta(500, 500, 0.5), 0.5, 1e-12);
}

// As tables of the t distribution print them.
TEST(Statistics, QuantilesAreThoseOfTables) {
  const struct {
    double degrees, confidence, t;
  } rows[] = {{1, 0.95, 12.7062}, {2, 0.95, 4.3027},   {3, 0.95, 3.1824},  {4, 0.95, 2.7764},
              {5, 0.95, 2.5706},  {9, 0.95, 2.2622},   {10, 0.95, 2.2281}, {30, 0.95, 2.0423},
              {60, 0.95, 2.0003}, {120, 0.95, 1.9799}, {1, 0.99, 63.6567}, {2, 0.99, 9.9248},
              {4, 0.99, 4.6041},  {2, 0.90, 2.9200},   {10, 0.90, 1.8125}, {2, 0.999, 31.5991}};
  for (const auto& row : rows) {
    EXPECT_NEAR(t_two_sided(row.confidence, row.degrees), row.t, 0.6e-4)
        << row.degrees << " degrees, " << row.confidence;
  }
  // Closed forms of one and two degrees; many degrees are a normal distribution.
  EXPECT_NEAR(t_two_sided(0.95, 1), std::tan(0.95 * M_PI / 2), 1e-10);
  EXPECT_NEAR(t_two_sided(0.95, 2), 0.95 * std::sqrt(2 / (1 - 0.95 * 0.95)), 1e-12);
  EXPECT_NEAR(t_two_sided(0.95, 1e7), 1.959963985, 1e-6);
  EXPECT_THROW(t_two_sided(1, 3), Error);
  EXPECT_THROW(t_two_sided(0.95, 0), Error);
}

TEST(Statistics, IntervalByHand) {
  const Interval three = interval_of({1, 2, 3});
  EXPECT_EQ(three.n, 3);
  EXPECT_NEAR(three.mean, 2, 1e-15);
  EXPECT_NEAR(three.sd, 1, 1e-15);
  EXPECT_NEAR(three.half(), 0.95 * std::sqrt(2 / (1 - 0.95 * 0.95)) / std::sqrt(3), 1e-12);
  EXPECT_NEAR(three.low + three.high, 4, 1e-14);
  const Interval same = interval_of({0.25, 0.25});
  EXPECT_EQ(same.low, 0.25);
  EXPECT_EQ(same.high, 0.25);
}

TEST(Statistics, OneNumberOrNoneHasNoInterval) {
  const Interval one = interval_of({7});
  EXPECT_EQ(one.mean, 7);
  EXPECT_TRUE(std::isinf(one.low) && one.low < 0 && std::isinf(one.high) && one.high > 0);
  EXPECT_TRUE(std::isnan(interval_of({}).mean));
}

// 10000 times n numbers from a normal distribution: the share of intervals with the truth inside
// is 0.95 but for chance, whose deviation is sqrt(0.95 * 0.05 / 10000) = 0.0022. Five of them.
TEST(Statistics, NinetyFivePercentContainTheTruth) {
  std::mt19937_64 random(20220114);
  std::normal_distribution<double> normal(0.02, 0.013);
  const int trials = 10000;
  const double slack = 5 * std::sqrt(0.95 * 0.05 / trials);
  for (const size_t n : {2, 3, 5, 10}) {
    int inside = 0;
    for (int i = 0; i < trials; ++i) {
      std::vector<double> numbers(n);
      std::generate(numbers.begin(), numbers.end(), [&] { return normal(random); });
      const Interval interval = interval_of(numbers);
      if (interval.low <= 0.02 && 0.02 <= interval.high) ++inside;
    }
    EXPECT_NEAR(static_cast<double>(inside) / trials, 0.95, slack) << "n = " << n;
  }
}

}  // namespace
}  // namespace pyramoe::lab
