#include "report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace pyramoe::report {
namespace {

// 1, 2 or 5 times a power of ten, not below x.
double round_up(double x) {
  const double power = std::pow(10, std::floor(std::log10(x)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= x * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::string label(double value) { return fmt::format("{:.6g}", value); }

// As many decimals as the step needs: 4.5, 5.0, 5.5.
std::string label(double value, double step) {
  const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 9);
  return fmt::format("{:.{}f}", value == 0 ? 0 : value, decimals);
}

}  // namespace

Axis::Axis(double low, double high, double begin, double end, bool logarithmic)
    : low_(low), high_(high), begin_(begin), end_(end), logarithmic_(logarithmic) {
  PM_CHECK(low < high && (!logarithmic || low > 0), "axis: cannot span ", low, " to ", high);
}

double Axis::at(double value) const {
  const double share = logarithmic_ ? std::log(value / low_) / std::log(high_ / low_)
                                    : (value - low_) / (high_ - low_);
  return begin_ + share * (end_ - begin_);
}

std::vector<Tick> Axis::ticks(int count, double unit) const {
  std::vector<Tick> out;
  if (logarithmic_) {
    const bool wide = high_ / low_ > 300;   // more than two decades: powers of ten alone
    const bool narrow = high_ / low_ < 12;  // about one: some more between
    for (double power = std::pow(10, std::floor(std::log10(low_))); power <= high_; power *= 10) {
      for (const double factor : {1.0, 1.5, 2.0, 3.0, 5.0, 7.0}) {
        const bool extra = factor == 1.5 || factor == 3 || factor == 7;
        if (extra && !narrow) continue;
        const double value = factor * power;
        if (value < low_ * (1 - 1e-9) || value > high_ * (1 + 1e-9)) continue;
        if (factor == 1 || !wide) out.push_back({value, label(value / unit)});
      }
    }
    return out;
  }
  // Round as it is printed: 10 MiB, not 10 million bytes.
  const double low = low_ / unit, high = high_ / unit, step = round_up((high - low) / count);
  for (auto i = static_cast<int64_t>(std::ceil(low / step - 1e-9));
       static_cast<double>(i) * step <= high + 1e-9 * step; ++i) {
    const double value = static_cast<double>(i) * step;
    out.push_back({value * unit, label(value, step)});
  }
  return out;
}

Unit unit_for(double high) {
  if (high >= 1e9) return {1e9, "billions"};
  if (high >= 1e6) return {1e6, "millions"};
  if (high >= 1e4) return {1e3, "thousands"};
  return {1, ""};
}

}  // namespace pyramoe::report
