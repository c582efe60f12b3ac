// Verdicts at their borders, pairing by seed, and what each measure takes from two runs.
#include "lab/verdict.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "lab/metric_text.h"

namespace pyramoe::lab {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

Interval between(double low, double high) { return {3, (low + high) / 2, 1, low, high}; }

void put(Results& results, const std::string& arm, int64_t seed, double loss,
         const Curve& validation = {}) {
  RunResult run;
  run.arm = arm;
  run.scale = "cpu";
  run.seed = seed;
  run.metrics["loss"] = loss;
  run.metrics["params_total"] = arm == "left" ? 100 : 300;
  run.validation = validation;
  add_result(results, run);
}

Claim claim_of(Measure measure, Side side, double margin) {
  Claim claim;
  claim.text = "left is better";
  claim.left = "left";
  claim.right = "right";
  claim.measure = measure;
  claim.side = side;
  claim.margin = margin;
  return claim;
}

TEST(Verdict, BelowAtItsBorders) {
  EXPECT_EQ(decide(between(-1, 0.0199), Side::below, 0.02), Outcome::holds);
  EXPECT_EQ(decide(between(-1, 0.02), Side::below, 0.02), Outcome::undecided);
  EXPECT_EQ(decide(between(0.0199, 1), Side::below, 0.02), Outcome::undecided);
  EXPECT_EQ(decide(between(0.02, 1), Side::below, 0.02), Outcome::fails);
}

TEST(Verdict, AboveAtItsBorders) {
  EXPECT_EQ(decide(between(1.11, 2), Side::above, 1.1), Outcome::holds);
  EXPECT_EQ(decide(between(1.1, 2), Side::above, 1.1), Outcome::undecided);
  EXPECT_EQ(decide(between(1, 1.11), Side::above, 1.1), Outcome::undecided);
  EXPECT_EQ(decide(between(1, 1.1), Side::above, 1.1), Outcome::fails);
}

TEST(Verdict, WithinAtItsBorders) {
  EXPECT_EQ(decide(between(-0.019, 0.019), Side::within, 0.02), Outcome::holds);
  EXPECT_EQ(decide(between(-0.02, 0.01), Side::within, 0.02), Outcome::undecided);
  EXPECT_EQ(decide(between(0.01, 0.02), Side::within, 0.02), Outcome::undecided);
  EXPECT_EQ(decide(between(0.02, 0.03), Side::within, 0.02), Outcome::fails);
  EXPECT_EQ(decide(between(-0.03, -0.02), Side::within, 0.02), Outcome::fails);
  EXPECT_EQ(decide(between(-0.03, 0.03), Side::within, 0.02), Outcome::undecided);
}

TEST(Verdict, AnEndlessIntervalDecidesNothing) {
  for (const Side side : {Side::below, Side::above, Side::within}) {
    EXPECT_EQ(decide(between(-kInfinite, kInfinite), side, 5), Outcome::undecided);
  }
}

TEST(Verdict, SeedsArePaired) {
  Results results;
  // Seeds differ by far more than the arms do; the gap is 0.02, 0.03, 0.04.
  put(results, "left", 1, 3.00), put(results, "right", 1, 3.02);
  put(results, "left", 2, 2.50), put(results, "right", 2, 2.53);
  put(results, "left", 3, 3.50), put(results, "right", 3, 3.54);
  put(results, "left", 4, 9.00);   // no partner
  put(results, "right", 5, 0.01);  // no partner
  put(results, "other", 1, 0);
  const Claim claim = claim_of(Measure::difference, Side::below, 0);
  const Verdict verdict = judge(claim, results, "cpu");
  EXPECT_EQ(verdict.seeds, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_NEAR(verdict.interval.mean, -0.03, 1e-12);
  EXPECT_NEAR(verdict.interval.half(), 4.302653 * 0.01 / std::sqrt(3), 1e-7);
  EXPECT_EQ(verdict.outcome, Outcome::holds);
  EXPECT_EQ(verdict_text(claim, verdict, "PR-MoE", "MoE"),
            "loss of PR-MoE minus that of MoE = -0.0300 [-0.0548, -0.0052], n = 3; claimed: below "
            "0");
  EXPECT_EQ(judge(claim, results, "small").interval.n, 0);
  EXPECT_EQ(judge(claim, results, "small").outcome, Outcome::undecided);
  EXPECT_EQ(outcome_text(judge(claim, results, "small")), "not run");
}

TEST(Verdict, OneSeedDecidesNothing) {
  Results results;
  put(results, "left", 1, 1), put(results, "right", 1, 9);
  const Claim claim = claim_of(Measure::difference, Side::below, 0);
  const Verdict verdict = judge(claim, results, "cpu");
  EXPECT_EQ(verdict.outcome, Outcome::undecided);
  EXPECT_NE(verdict_text(claim, verdict, "a", "b").find("n = 1"), std::string::npos);
}

TEST(Verdict, WhatFollowsFromTheConfigNeedsOneSeed) {
  Results results;
  put(results, "left", 1, 1), put(results, "right", 1, 9);
  Claim claim = claim_of(Measure::ratio, Side::below, 0.4);
  claim.metric = "params_total";
  const Verdict verdict = judge(claim, results, "cpu");
  EXPECT_EQ(verdict.outcome, Outcome::holds);
  EXPECT_EQ(verdict_text(claim, verdict, "a", "b"),
            "parameters of a over that of b = 0.333, exact; claimed: below 0.4");
  claim.margin = 1.0 / 3;
  EXPECT_EQ(judge(claim, results, "cpu").outcome, Outcome::fails);
}

TEST(Verdict, UnitsStandOnceBehindTheNumbers) {
  Results results;
  for (int64_t seed = 1; seed <= 2; ++seed) {
    put(results, "left", seed, 1), put(results, "right", seed, 1);
  }
  for (RunResult& run : results.runs) run.metrics["acc.piqa"] = run.arm == "left" ? 0.5 : 0.49;
  Claim claim = claim_of(Measure::difference, Side::above, 0.02);
  claim.metric = "acc.piqa";
  EXPECT_EQ(verdict_text(claim, judge(claim, results, "cpu"), "a", "b"),
            "piqa of a minus that of b = +1.0 [+1.0, +1.0] points, n = 2; claimed: above 2 points");
}

TEST(Verdict, ATimingThatWasCopiedToAllSeedsIsOneTiming) {
  Results results;
  for (int64_t seed = 1; seed <= 3; ++seed) {
    put(results, "left", seed, 1);
    results.runs.back().metrics["bench.step_ms"] = 12.5;
  }
  Claim claim = claim_of(Measure::value, Side::below, 20);
  claim.metric = "bench.step_ms";
  EXPECT_EQ(judge(claim, results, "cpu").interval.n, 1);
  EXPECT_EQ(judge(claim, results, "cpu").outcome, Outcome::undecided);
  claim.metric = "loss";  // equal losses are three measurements
  EXPECT_EQ(judge(claim, results, "cpu").outcome, Outcome::holds);
}

TEST(Verdict, TokensToMatchAreInterpolated) {
  Results results;
  for (int64_t seed = 1; seed <= 2; ++seed) {
    put(results, "left", seed, 2, {{100, 4}, {200, 3}, {300, 2.5}, {400, 2}});
    put(results, "right", seed, 2.75, {{100, 5}, {400, 2.75}});
  }
  const Claim claim = claim_of(Measure::tokens_to_match, Side::below, 0.7);
  const Verdict verdict = judge(claim, results, "cpu");
  EXPECT_NEAR(verdict.interval.mean, 250.0 / 400, 1e-12);
  EXPECT_EQ(verdict.outcome, Outcome::holds);
  EXPECT_EQ(verdict_text(claim, verdict, "MoE", "dense"),
            "share of dense's tokens after which MoE has its last loss = 0.625 [0.625, 0.625], n = "
            "2; claimed: below 0.7");
}

// A run that ended before it got there would have needed more tokens than it had.
TEST(Verdict, ARunThatNeverMatchesSpeaksOnlyAgainstFewTokens) {
  Results results;
  for (int64_t seed = 1; seed <= 3; ++seed) {
    put(results, "left", seed, 3, {{100, 4}, {400, 3}});
    put(results, "right", seed, 2, {{100, 4}, {400, 2}});
  }
  const auto outcome = [&](Side side, double margin) {
    return judge(claim_of(Measure::tokens_to_match, side, margin), results, "cpu").outcome;
  };
  EXPECT_EQ(outcome(Side::below, 0.8), Outcome::fails);
  EXPECT_EQ(outcome(Side::below, 1.5), Outcome::undecided);
  EXPECT_EQ(outcome(Side::above, 0.8), Outcome::holds);
  EXPECT_EQ(outcome(Side::above, 1.5), Outcome::undecided);
  EXPECT_EQ(outcome(Side::within, 1.5), Outcome::undecided);
  const Claim claim = claim_of(Measure::tokens_to_match, Side::below, 0.8);
  EXPECT_NE(verdict_text(claim, judge(claim, results, "cpu"), "a", "b")
                .find("not reached in 3 of 3 runs"),
            std::string::npos);
}

TEST(Verdict, SmokeIsNotJudgedUnlessAsked) {
  Claim claim;
  EXPECT_TRUE(is_judged(claim, "cpu"));
  EXPECT_FALSE(is_judged(claim, "smoke"));
  claim.scales = {"smoke"};
  EXPECT_TRUE(is_judged(claim, "smoke"));
  EXPECT_FALSE(is_judged(claim, "cpu"));
}

TEST(MetricText, NumbersHaveUnits) {
  EXPECT_EQ(number_text(style_of("loss"), 2.45183), "2.4518");
  EXPECT_EQ(number_text(style_of("dropped"), 0.0312), "3.1 %");
  EXPECT_EQ(number_text(style_of("params_total"), 13.14e9), "13.1 B");
  EXPECT_EQ(number_text(style_of("tokens_per_s"), 1234567.4), "1,234,567");
  EXPECT_EQ(number_text(style_of("bench.peak_bytes"), 210.0 * 1024 * 1024), "210.0 MiB");
  EXPECT_EQ(number_text(style_of("acc.lambada"), 0.5203), "52.0 %");
  EXPECT_EQ(number_text(style_of("loss"), std::nan("")), "–");
  EXPECT_EQ(signed_text(style_of("loss"), -0.00001), "+0.0000");
  EXPECT_EQ(signed_text(style_of("loss"), 0.0123), "+0.0123");
  EXPECT_EQ(style_of("loss@0.5").title, "loss at 50 %");
  EXPECT_EQ(mean_text(style_of("loss"), interval_of({2.5})), "2.5000");
  EXPECT_EQ(mean_text(style_of("loss"), interval_of({1, 2, 3})), "2.0000 ± 2.4841");
  EXPECT_EQ(mean_text(style_of("params_total"), interval_of({1000, 1000})), "1 K");
}

}  // namespace
}  // namespace pyramoe::lab
