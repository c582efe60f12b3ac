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

// Who shares the work evenly: all experts of a layer, or, where experts come and go (moe.budget),
// those that had any tokens; the others are empty slots.
enum class Sharers { all, busy };
int64_t sharers(const std::vector<int64_t>& load, Sharers who);
// Busiest expert over an even share; NaN without choices.
double imbalance(const std::vector<int64_t>& load, Sharers who = Sharers::all);
// Entropy of the load over that of an even one: 1 = all have equally much, 0 = one has everything.
double evenness(const std::vector<int64_t>& load, Sharers who = Sharers::all);

// Mutual information over the mean of the two entropies: 0 = the one says nothing about the other,
// 1 = it says all. 0 where a choice has only one value.
double shared_information(const Counts& counts);
// What few counts pretend: about what shared_information finds where there is nothing to find,
// (rows - 1) (columns - 1) / (2 total) nats over the same mean (Miller's bias of an entropy).
double chance_information(const Counts& counts);
// How often a row and a column meet over what chance would give, (n + 1) / (expected + 1): cells
// that hardly any token can reach stay near 1.
//   distinct  row and column are never the same: what chance has on the diagonal goes to the others
std::vector<double> against_chance(const Counts& counts, bool distinct = false);
// Share of a row's choices that a column gets, over an even share; NaN for an empty row.
std::vector<double> against_even(const Counts& counts, Sharers who = Sharers::all);

// One layer's load over time, resampled to equal stretches of tokens.
struct LoadOverTime {
  int64_t experts = 0, columns = 0;
  double tokens = 0;          // at the right edge; the left edge is 0
  std::vector<double> ratio;  // (experts, columns): load over an even share; NaN: nothing recorded
};
LoadOverTime load_over_time(const std::vector<train::RoutingRecord>& records, size_t layer,
                            int64_t most_columns, Sharers who = Sharers::all);

}  // namespace pyramoe::report
