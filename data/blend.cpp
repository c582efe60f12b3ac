// Weights to whole shares, and the layout of one period.
#include "data/blend.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace pyramoe::data {
namespace {

constexpr int64_t kLongestPeriod = 65536;

// True if all weights are whole multiples of 1 / period; then `shares` are the multiples.
bool fits(const std::vector<double>& weights, int64_t period, std::vector<int64_t>& shares) {
  for (size_t d = 0; d < weights.size(); ++d) {
    const double exact = weights[d] * static_cast<double>(period);
    const double whole = std::round(exact);
    if (whole < 1 || std::abs(exact - whole) > 1e-9 * static_cast<double>(period)) return false;
    shares[d] = static_cast<int64_t>(whole);
  }
  return std::accumulate(shares.begin(), shares.end(), int64_t{0}) == period;
}

// The nearest whole shares of the longest period, each at least one.
void round_shares(const std::vector<double>& weights, std::vector<int64_t>& shares) {
  int64_t left = kLongestPeriod;
  std::vector<std::pair<double, size_t>> rest;  // minus the remainder, domain
  for (size_t d = 0; d < weights.size(); ++d) {
    const double exact = weights[d] * static_cast<double>(kLongestPeriod);
    shares[d] = std::max<int64_t>(1, static_cast<int64_t>(exact));
    left -= shares[d];
    rest.emplace_back(static_cast<double>(shares[d]) - exact, d);
  }
  std::sort(rest.begin(), rest.end());
  for (size_t i = 0; left > 0; i = (i + 1) % rest.size(), --left) ++shares[rest[i].second];
  while (left < 0) {  // many tiny weights were raised to one: the largest pay
    --*std::max_element(shares.begin(), shares.end());
    ++left;
  }
}

}  // namespace

Blend::Blend(const std::vector<double>& weights) : shares_(weights.size()) {
  if (weights.empty() || weights.size() > 1024) {
    fail(Exit::config, "data: ", weights.size(), " domains to blend; expected 1 to 1024");
  }
  double sum = 0;
  for (const double w : weights) {
    if (!(w > 0) || !std::isfinite(w)) {
      fail(Exit::config, "data: a domain has the weight ", w,
           "; expected a number above 0 (leave a domain out to not use it)");
    }
    sum += w;
  }
  std::vector<double> parts;
  for (const double w : weights) parts.push_back(w / sum);
  int64_t period = 1;
  while (period <= kLongestPeriod && !fits(parts, period, shares_)) ++period;
  if (period > kLongestPeriod) round_shares(parts, shares_);
  lay_out();
}

void Blend::lay_out() {
  const auto domains = static_cast<int64_t>(shares_.size());
  const int64_t period = std::accumulate(shares_.begin(), shares_.end(), int64_t{0});
  const int64_t slack = std::max<int64_t>(2 * domains - 2, 1);
  std::vector<int64_t> given(shares_.size(), 0);
  for (int64_t g = 0; g < period; ++g) {
    // Among domains that may have one now, the one whose next is due first. Numbers are Tijdeman's
    // times period * slack, so that all are whole.
    int64_t best = -1, best_due = 0, best_share = 1;
    for (int64_t d = 0; d < domains; ++d) {
      const int64_t share = shares_[static_cast<size_t>(d)];
      const int64_t behind = share * g - given[static_cast<size_t>(d)] * period;
      if (domains > 1 && (behind + share) * slack < period) continue;
      const int64_t due = (slack - 1) * period - slack * behind;
      if (best < 0 || due * best_share < best_due * share) {
        best = d;
        best_due = due;
        best_share = share;
      }
    }
    PM_CHECK(best >= 0, "Blend: no domain may come at ", g);
    slots_.push_back(
        {static_cast<int32_t>(best), static_cast<int32_t>(given[static_cast<size_t>(best)]++)});
  }
}

Blend::Pick Blend::at(int64_t sample) const {
  PM_CHECK(sample >= 0, "Blend: sample ", sample);
  const Slot slot = slots_[static_cast<size_t>(sample % period())];
  const int64_t before = sample / period() * shares_[static_cast<size_t>(slot.domain)];
  return {slot.domain, before + slot.ordinal};
}

}  // namespace pyramoe::data
