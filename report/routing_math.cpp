// See routing_math.h.
#include "report/routing_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace pyramoe::report {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

double sum_of(const std::vector<int64_t>& counts) {
  return static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
}

// In nats.
double entropy(const std::vector<int64_t>& counts) {
  const double total = sum_of(counts);
  double out = 0;
  for (const int64_t n : counts) {
    if (n > 0) out -= static_cast<double>(n) / total * std::log(static_cast<double>(n) / total);
  }
  return out;
}

// Where a record begins: at its predecessor's end, or, after a gap, where an even pace puts it.
double tokens_before(const std::vector<train::RoutingRecord>& records, size_t i) {
  const train::RoutingRecord& record = records[i];
  if (record.first == 1) return 0;
  if (i > 0 && records[i - 1].last + 1 == record.first) {
    return static_cast<double>(records[i - 1].tokens);
  }
  return static_cast<double>(record.tokens) * static_cast<double>(record.first - 1) /
         static_cast<double>(record.last);
}

}  // namespace

int64_t Counts::total() const { return std::accumulate(n.begin(), n.end(), int64_t{0}); }

std::vector<int64_t> Counts::row_sums() const {
  std::vector<int64_t> sums(static_cast<size_t>(rows), 0);
  for (size_t i = 0; i < n.size(); ++i) sums[i / static_cast<size_t>(columns)] += n[i];
  return sums;
}

std::vector<int64_t> Counts::column_sums() const {
  std::vector<int64_t> sums(static_cast<size_t>(columns), 0);
  for (size_t i = 0; i < n.size(); ++i) sums[i % static_cast<size_t>(columns)] += n[i];
  return sums;
}

int64_t sharers(const std::vector<int64_t>& load, Sharers who) {
  const auto idle = std::count(load.begin(), load.end(), int64_t{0});
  return static_cast<int64_t>(load.size()) - (who == Sharers::busy ? idle : 0);
}

double imbalance(const std::vector<int64_t>& load, Sharers who) {
  const double total = sum_of(load);
  if (total <= 0) return kNone;
  const auto most = static_cast<double>(*std::max_element(load.begin(), load.end()));
  return most * static_cast<double>(sharers(load, who)) / total;
}

double evenness(const std::vector<int64_t>& load, Sharers who) {
  if (sum_of(load) <= 0) return kNone;
  const int64_t count = sharers(load, who);
  return count < 2 ? 1 : entropy(load) / std::log(static_cast<double>(count));
}

double shared_information(const Counts& counts) {
  if (counts.total() == 0) return kNone;
  const double rows = entropy(counts.row_sums()), columns = entropy(counts.column_sums());
  const double shared = rows + columns - entropy(counts.n);
  const double mean = (rows + columns) / 2;
  if (rows <= 0 || columns <= 0) return 0;
  return std::clamp(shared / mean, 0.0, 1.0);
}

double chance_information(const Counts& counts) {
  const std::vector<int64_t> rows = counts.row_sums(), columns = counts.column_sums();
  const double mean = (entropy(rows) + entropy(columns)) / 2;
  if (counts.total() == 0 || mean <= 0) return 0;
  const auto used = [](const std::vector<int64_t>& sums) {
    return static_cast<double>(sums.size()) -
           static_cast<double>(std::count(sums.begin(), sums.end(), int64_t{0}));
  };
  const double nats =
      (used(rows) - 1) * (used(columns) - 1) / (2 * static_cast<double>(counts.total()));
  return std::min(1.0, nats / mean);
}

std::vector<double> against_chance(const Counts& counts, bool distinct) {
  const std::vector<int64_t> rows = counts.row_sums(), columns = counts.column_sums();
  const auto total = static_cast<double>(counts.total());
  const auto chance = [&](int64_t r, int64_t c) {
    if (total == 0 || (distinct && r == c)) return 0.0;
    return static_cast<double>(rows[static_cast<size_t>(r)]) *
           static_cast<double>(columns[static_cast<size_t>(c)]) / total;
  };
  double all = 0;
  for (int64_t r = 0; r < counts.rows; ++r) {
    for (int64_t c = 0; c < counts.columns; ++c) all += chance(r, c);
  }
  std::vector<double> out;
  for (int64_t r = 0; r < counts.rows; ++r) {
    for (int64_t c = 0; c < counts.columns; ++c) {
      const double expected = all > 0 ? chance(r, c) * total / all : 0;
      out.push_back((static_cast<double>(counts.at(r, c)) + 1) / (expected + 1));
    }
  }
  return out;
}

std::vector<double> against_even(const Counts& counts, Sharers who) {
  const auto even = static_cast<double>(sharers(counts.column_sums(), who));
  const std::vector<int64_t> rows = counts.row_sums();
  std::vector<double> out;
  for (int64_t r = 0; r < counts.rows; ++r) {
    const auto total = static_cast<double>(rows[static_cast<size_t>(r)]);
    for (int64_t c = 0; c < counts.columns; ++c) {
      const double share = static_cast<double>(counts.at(r, c)) / total;
      out.push_back(total > 0 ? share * even : kNone);
    }
  }
  return out;
}

LoadOverTime load_over_time(const std::vector<train::RoutingRecord>& records, size_t layer,
                            int64_t most_columns, Sharers who) {
  LoadOverTime out;
  if (records.empty()) return out;
  out.tokens = static_cast<double>(records.back().tokens);
  out.columns = std::min(most_columns, static_cast<int64_t>(records.size()));
  for (const auto& record : records) {
    out.experts = std::max(out.experts, static_cast<int64_t>(record.load[layer].size()));
  }
  const auto experts = static_cast<size_t>(out.experts), columns = static_cast<size_t>(out.columns);
  std::vector<double> sums(experts * columns, 0), totals(columns, 0);
  const double width = out.tokens / static_cast<double>(columns);
  for (size_t i = 0; i < records.size(); ++i) {
    const double begin = tokens_before(records, i);
    const auto end = static_cast<double>(records[i].tokens);
    const std::vector<int64_t>& load = records[i].load[layer];
    if (end <= begin) continue;
    for (size_t c = static_cast<size_t>(begin / width); c < columns; ++c) {
      const double low = static_cast<double>(c) * width;
      const double share = (std::min(end, low + width) - std::max(begin, low)) / (end - begin);
      if (share <= 0) break;
      for (size_t e = 0; e < load.size(); ++e) {
        sums[e * columns + c] += share * static_cast<double>(load[e]);
        totals[c] += share * static_cast<double>(load[e]);
      }
    }
  }
  std::vector<double> even(columns, 0);  // by how many a column's work is shared
  for (size_t i = 0; i < sums.size(); ++i) {
    if (who == Sharers::all || sums[i] > 0) even[i % columns] += 1;
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    const double total = totals[i % columns];
    out.ratio.push_back(total > 0 ? sums[i] * even[i % columns] / total : kNone);
  }
  return out;
}

}  // namespace pyramoe::report
