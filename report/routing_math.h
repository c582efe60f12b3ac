// The few numbers behind the observatory: how even a load is, what two choices tell about each
// other, and how often they meet against chance. Plain functions of counts.
#pragma once

#include <cstdint>
#include <vector>

#include "train/routing_record.h"

namespace pyramoe::report {

// Counts of two choices that were made together, row by row.
struct Counts {
  int64_t rows = 0, columns = 0;
  std::vector<int64_t> n;

  Counts() = default;
  Counts(int64_t r, int64_t c) : rows(r), columns(c), n(static_cast<size_t>(r * c), 0) {}
  int64_t& at(int64_t r, int64_t c) { return n[static_cast<size_t>(r * columns + c)]; }
  int64_t at(int64_t r, int64_t c) const { return n[static_cast<size_t>(r * columns + c)]; }
  int64_t total() const;
  std::vector<int64_t> row_sums() const;
  std::vector<int64_t> column_sums() const;
};

// Busiest expert over the mean; NaN without choices.
double imbalance(const std::vector<int64_t>& load);
// Entropy of the load over log E: 1 = all experts have equally much, 0 = one has everything.
double evenness(const std::vector<int64_t>& load);

// Mutual information over the mean of the two entropies: 0 = the one says nothing about the other,
// 1 = it says all. 0 where a choice has only one value. Few counts make it too large by about
// (rows - 1) (columns - 1) / (2 total) nats before the division.
double shared_information(const Counts& counts);
// How often a row and a column meet over what chance would give, (n + 1) / (expected + 1): cells
// that hardly any token can reach stay near 1.
std::vector<double> against_chance(const Counts& counts);
// Share of a row's choices that a column gets, times the number of columns; NaN for an empty row.
std::vector<double> against_even(const Counts& counts);

// One layer's load over time, resampled to equal stretches of tokens.
struct LoadOverTime {
  int64_t experts = 0, columns = 0;
  double tokens = 0;          // at the right edge; the left edge is 0
  std::vector<double> ratio;  // (experts, columns): load over an even share; NaN: nothing recorded
};
LoadOverTime load_over_time(const std::vector<train::RoutingRecord>& records, size_t layer,
                            int64_t most_columns);

}  // namespace pyramoe::report
