#include "lab/verdict.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "lab/metric_text.h"

namespace pyramoe::lab {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

const RunResult* find_run(const Results& results, const std::string& scale, const std::string& arm,
                          int64_t seed) {
  for (const RunResult& run : results.runs) {
    if (run.scale == scale && run.arm == arm && run.seed == seed) return &run;
  }
  return nullptr;
}

bool all_same(const std::vector<double>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [&](double x) { return x == numbers[0]; });
}

// Equal bits of a timing are one timing that was written down several times.
std::vector<double> measured_once(const std::string& metric, std::vector<double> numbers) {
  const bool timing = metric.rfind("bench.", 0) == 0 && !style_of(metric).exact;
  if (timing && numbers.size() > 1 && all_same(numbers)) {
    numbers.erase(numbers.begin() + 1, numbers.end());
  }
  return numbers;
}

struct Match {
  double share = kNone;
  bool reached = true;
};

// Where the straight lines between left's validations first come down to right's last loss.
Match tokens_to_match(const RunResult& left, const RunResult& right) {
  if (left.validation.empty() || right.validation.empty()) return {};
  const auto [total, target] = right.validation.back();
  if (!std::isfinite(target) || !(total > 0)) return {};
  double before = kNone, loss_before = kNone;
  for (const auto& [tokens, loss] : left.validation) {
    if (loss <= target) {
      const double slope = (tokens - before) / (loss - loss_before);
      // The first validation is already there: some time before it, nobody knows when.
      return {(std::isfinite(slope) ? before + slope * (target - loss_before) : tokens) / total,
              true};
    }
    if (!std::isfinite(loss)) continue;
    before = tokens;
    loss_before = loss;
  }
  return {left.validation.back().first / total, false};
}

double number_of(const Claim& claim, const RunResult& left, const RunResult* right,
                 int64_t& unreached) {
  const double x = claim.measure == Measure::tokens_to_match ? 0 : metric_of(left, claim.metric);
  switch (claim.measure) {
    case Measure::value:
      return x;
    case Measure::difference:
      return x - metric_of(*right, claim.metric);
    case Measure::ratio:
      return x / metric_of(*right, claim.metric);
    case Measure::tokens_to_match:
      break;
  }
  const Match match = tokens_to_match(left, *right);
  if (!match.reached) ++unreached;
  return match.share;
}

std::string measured_text(const Claim& claim, const std::string& left, const std::string& right) {
  const std::string metric = style_of(claim.metric).title;
  switch (claim.measure) {
    case Measure::value:
      return fmt::format("{} of {}", metric, left);
    case Measure::difference:
      return fmt::format("{} of {} minus that of {}", metric, left, right);
    case Measure::ratio:
      return fmt::format("{} of {} over that of {}", metric, left, right);
    case Measure::tokens_to_match:
      break;
  }
  return fmt::format("share of {}'s tokens after which {} has its last loss", right, left);
}

std::string side_text(Side side) {
  return side == Side::below ? "below " : side == Side::above ? "above " : "within ±";
}

}  // namespace

bool is_judged(const Claim& claim, const std::string& scale) {
  if (claim.scales.empty()) return scale != "smoke";
  return std::find(claim.scales.begin(), claim.scales.end(), scale) != claim.scales.end();
}

Outcome decide(const Interval& interval, Side side, double margin) {
  const double low = interval.low, high = interval.high;
  if (!(low <= high)) return Outcome::undecided;  // not numbers
  const auto below = [&](double bound) {
    return high < bound ? Outcome::holds : low >= bound ? Outcome::fails : Outcome::undecided;
  };
  const auto above = [&](double bound) {
    return low > bound ? Outcome::holds : high <= bound ? Outcome::fails : Outcome::undecided;
  };
  if (side == Side::below) return below(margin);
  if (side == Side::above) return above(margin);
  const Outcome upper = below(margin), lower = above(-margin);
  if (upper == Outcome::fails || lower == Outcome::fails) return Outcome::fails;
  return upper == lower ? upper : Outcome::undecided;
}

Verdict judge(const Claim& claim, const Results& results, const std::string& scale) {
  Verdict out;
  for (const RunResult& left : results.runs) {
    if (left.scale != scale || left.arm != claim.left) continue;
    const bool alone = claim.measure == Measure::value;
    const RunResult* right = alone ? nullptr : find_run(results, scale, claim.right, left.seed);
    if (!alone && !right) continue;
    int64_t unreached = 0;
    const double x = number_of(claim, left, right, unreached);
    if (std::isnan(x)) continue;
    out.seeds.push_back(left.seed);
    out.numbers.push_back(x);
    out.unreached += unreached;
  }
  out.numbers = measured_once(claim.metric, out.numbers);
  out.interval = interval_of(out.numbers);
  out.exact = claim.measure != Measure::tokens_to_match && style_of(claim.metric).exact &&
              !out.numbers.empty() && all_same(out.numbers);
  if (out.exact) out.interval.low = out.interval.high = out.interval.mean = out.numbers[0];
  out.outcome = decide(out.interval, claim.side, claim.margin);
  // A run that ended too early would have needed more than was counted: that can speak against
  // few tokens, never for them.
  const Outcome biased = claim.side == Side::above ? Outcome::fails : Outcome::holds;
  if (out.unreached > 0 && out.outcome == biased) out.outcome = Outcome::undecided;
  if (out.unreached > 0 && claim.side == Side::within && out.interval.low < claim.margin) {
    out.outcome = Outcome::undecided;
  }
  return out;
}

std::string outcome_text(const Verdict& verdict) {
  if (verdict.interval.n == 0) return "not run";
  return verdict.outcome == Outcome::holds   ? "holds"
         : verdict.outcome == Outcome::fails ? "does not hold"
                                             : "not decided";
}

std::string verdict_text(const Claim& claim, const Verdict& verdict, const std::string& left,
                         const std::string& right) {
  const std::string what = measured_text(claim, left, right);
  const Interval& x = verdict.interval;
  if (x.n == 0) return what + ": no seed has this number yet";
  MetricStyle style = style_of(claim.metric);
  const bool plain = claim.measure == Measure::ratio || claim.measure == Measure::tokens_to_match;
  if (claim.measure == Measure::difference && style.suffix == " %") style.suffix = " points";
  const std::string unit =
      plain ? "" : std::exchange(style.suffix, "");  // once, behind the numbers
  const auto number = [&](double value) {
    if (plain) return fmt::format("{:.3f}", value);
    return claim.measure == Measure::value ? number_text(style, value) : signed_text(style, value);
  };
  std::string out = fmt::format("{} = {}", what, number(x.mean));
  if (verdict.exact) {
    out += unit + ", exact";
  } else if (x.n == 1) {
    out += unit + ", n = 1 (an interval needs two seeds)";
  } else {
    out += fmt::format(" [{}, {}]{}, n = {}", number(x.low), number(x.high), unit, x.n);
  }
  if (verdict.unreached > 0) {
    out += fmt::format(" (not reached in {} of {} runs, which count as their own length)",
                       verdict.unreached, x.n);
  }
  return fmt::format("{}; claimed: {}{:.6g}{}", out, side_text(claim.side),
                     plain ? claim.margin : claim.margin / style.unit, unit);
}

std::vector<SeedValue> values_of(const Results& results, const std::string& scale,
                                 const std::string& arm, const std::string& metric) {
  std::vector<SeedValue> out;
  for (const RunResult& run : results.runs) {
    if (run.scale != scale || run.arm != arm) continue;
    const double x = metric_of(run, metric);
    if (std::isfinite(x)) out.push_back({run.seed, x});
  }
  return out;
}

Interval interval_of_arm(const Results& results, const std::string& scale, const std::string& arm,
                         const std::string& metric) {
  std::vector<double> numbers;
  for (const SeedValue& value : values_of(results, scale, arm, metric)) {
    numbers.push_back(value.value);
  }
  return interval_of(measured_once(metric, numbers));
}

}  // namespace pyramoe::lab
