#include "lab/statistics.h"

#include <cmath>
#include <limits>

#include "core/error.h"

namespace pyramoe::lab {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

// log Gamma of a positive number. Not std::lgamma: its sign goes through a global.
double log_gamma(double x) {
  // Stirling's series, after a recurrence up to where its fifth term is below 1e-16.
  double shift = 0;
  for (; x < 20; x += 1) shift -= std::log(x);
  const double r = 1 / (x * x);
  const double series =
      (1.0 / 12 - r * (1.0 / 360 - r * (1.0 / 1260 - r * (1.0 / 1680 - r / 1188)))) / x;
  return shift + (x - 0.5) * std::log(x) - x + 0.5 * std::log(2 * M_PI) + series;
}

// The continued fraction of I_x(a, b) (Abramowitz and Stegun, 26.5.8), from its front by Lentz's
// method. Converges fast for x < (a + 1) / (a + b + 2).
double beta_fraction(double a, double b, double x) {
  const double tiny = 1e-300;
  double value = 1, numerators = 1, denominators = 0;
  for (int i = 0; i < 10000; ++i) {
    const int m = i / 2;
    double term = 1;
    if (i > 0 && i % 2 == 0) {
      term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    } else if (i % 2 == 1) {
      term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    }
    denominators = 1 + term * denominators;
    if (std::fabs(denominators) < tiny) denominators = tiny;
    denominators = 1 / denominators;
    numerators = 1 + term / numerators;
    if (std::fabs(numerators) < tiny) numerators = tiny;
    const double factor = numerators * denominators;
    value *= factor;
    if (i > 0 && std::fabs(factor - 1) < 1e-15) break;
  }
  return value - 1;
}

}  // namespace

double incomplete_beta(double a, double b, double x) {
  PM_CHECK(a > 0 && b > 0 && x >= 0 && x <= 1, "incomplete_beta: a = ", a, ", b = ", b, ", x = ", x,
           "; expected a, b > 0 and x in [0, 1]");
  if (x == 0 || x == 1) return x;
  if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(b, a, 1 - x);
  const double front = std::exp(a * std::log(x) + b * std::log1p(-x) + log_gamma(a + b) -
                                log_gamma(a) - log_gamma(b));
  return front / a * beta_fraction(a, b, x);
}

double t_two_sided(double confidence, double degrees) {
  PM_CHECK(confidence > 0 && confidence < 1 && degrees > 0, "t_two_sided: confidence ", confidence,
           ", degrees ", degrees, "; expected one inside (0, 1) and more than 0");
  // P(|T| <= t) = I_y(1/2, degrees/2) with y = t^2 / (degrees + t^2), which grows with y.
  double low = 0, high = 1;
  for (int i = 0; i < 2000; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;  // neighbours
    (incomplete_beta(0.5, degrees / 2, middle) < confidence ? low : high) = middle;
  }
  const double y = low + (high - low) / 2;
  return std::sqrt(degrees * y / (1 - y));
}

Interval interval_of(const std::vector<double>& numbers, double confidence) {
  Interval out;
  out.n = static_cast<int64_t>(numbers.size());
  const auto n = static_cast<double>(out.n);
  for (const double x : numbers) out.mean += x / n;
  if (out.n == 0) out.mean = std::numeric_limits<double>::quiet_NaN();
  if (out.n < 2) {
    out.low = -kInfinite;
    out.high = kInfinite;
    return out;
  }
  double squares = 0;
  for (const double x : numbers) squares += (x - out.mean) * (x - out.mean);
  out.sd = std::sqrt(squares / (n - 1));
  const double half = t_two_sided(confidence, n - 1) * out.sd / std::sqrt(n);
  out.low = out.mean - half;
  out.high = out.mean + half;
  return out;
}

}  // namespace pyramoe::lab
