// Student's t: the interval in which the mean of a few numbers lies, at 95 %, two-sided.
//
// The numbers of a claim are paired: one for each seed, both sides of it trained on the same data
// in the same order. What seeds share then cancels, and three of them can decide a small gap.
#pragma once

#include <cstdint>
#include <vector>

namespace pyramoe::lab {

inline constexpr double kConfidence = 0.95;

// I_x(a, b), the regularised incomplete beta function: a, b > 0, 0 <= x <= 1.
double incomplete_beta(double a, double b, double x);
// The t with P(|T| <= t) = confidence for Student's T; degrees > 0, 0 < confidence < 1.
double t_two_sided(double confidence, double degrees);

// Of n < 2 numbers there is no interval: low and high are infinite; n = 0 has no mean (NaN) either.
struct Interval {
  int64_t n = 0;
  double mean = 0, sd = 0;  // sd with n - 1
  double low = 0, high = 0;
  double half() const { return (high - low) / 2; }
};
Interval interval_of(const std::vector<double>& numbers, double confidence = kConfidence);

}  // namespace pyramoe::lab
