// How a metric is called and printed: the words and units of tables, sentences and axes.
#pragma once

#include <string>

#include "lab/statistics.h"

namespace pyramoe::lab {

struct MetricStyle {
  std::string title = "";   // of a column: "loss"
  std::string axis = "";    // "validation loss (nats per token)"
  double unit = 1;          // printed numbers are multiples of it
  int decimals = 4;         // of a printed number
  std::string suffix = "";  // " %"
  bool counted = false;     // printed as 2.10 M
  bool exact = false;       // follows from the config: has no chance in it, one seed is enough
  bool from_zero = false;   // bars begin at zero: the number is an amount
};
MetricStyle style_of(const std::string& metric);

// "2.4518", "3.1 %", "13.1 M", "210.0 MiB"
std::string number_text(const MetricStyle& style, double x);
// The same with its sign: "+0.0123". Of counted metrics: a number with four digits.
std::string signed_text(const MetricStyle& style, double x);
// The mean and half of its interval: "2.4518 ± 0.0021"; the mean alone where n < 2 or the metric
// is exact.
std::string mean_text(const MetricStyle& style, const Interval& interval);

}  // namespace pyramoe::lab
