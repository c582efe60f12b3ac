// Whether a claim holds at a scale: its number for every seed, the interval of their mean, and on
// which side of the margin that interval lies. Seeds are paired: a seed counts if both arms have
// it.
//
// Each claim is judged by itself; nothing is corrected for how many there are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lab/definition.h"
#include "lab/results.h"
#include "lab/statistics.h"

namespace pyramoe::lab {

// holds: every number in the interval is what the claim says. fails: none is.
enum class Outcome { holds, fails, undecided };

struct Verdict {
  Outcome outcome = Outcome::undecided;
  Interval interval;
  std::vector<int64_t> seeds;   // that were judged
  std::vector<double> numbers;  // one a seed
  int64_t unreached = 0;  // tokens_to_match: seeds whose left run ended before; counted as its end
  bool exact = false;     // no chance in it: the interval is a point
};

// Claims without a list of scales are judged everywhere but at smoke, where models learn nothing.
bool is_judged(const Claim& claim, const std::string& scale);

Verdict judge(const Claim& claim, const Results& results, const std::string& scale);
// Where an interval lies. Open ends (of one number) decide nothing.
Outcome decide(const Interval& interval, Side side, double margin);

// "holds", "does not hold", "not decided"; "not run" where no seed has the numbers
std::string outcome_text(const Verdict& verdict);
// The measured number with its interval and what was claimed of it, for people. `left` and `right`
// are the labels of the arms.
std::string verdict_text(const Claim& claim, const Verdict& verdict, const std::string& left,
                         const std::string& right);

// Metric values of an arm's runs at a scale, by seed; those without a number are left out.
struct SeedValue {
  int64_t seed = 0;
  double value = 0;
};
std::vector<SeedValue> values_of(const Results& results, const std::string& scale,
                                 const std::string& arm, const std::string& metric);
// Their interval. Copies of one measurement (a bench that ran once for all seeds) count as one.
Interval interval_of_arm(const Results& results, const std::string& scale, const std::string& arm,
                         const std::string& metric);

}  // namespace pyramoe::lab
