// One number an arm, in rows. Amounts are bars from zero, with the interval of their mean. Losses
// and the like are points at their difference to the first arm within a seed, which is what claims
// judge. Small dots are seeds.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/text.h"
#include "lab/experiment_figure.h"
#include "lab/metric_text.h"

namespace pyramoe::lab {
namespace {

using report::Anchor;
using report::Axis;
using report::Range;
using report::Svg;

constexpr double kRowHeight = 30, kTop = 62, kPlot = 470, kMargin = 16;

struct Row {
  const ArmRuns* arm;
  std::vector<double> numbers;  // that are drawn: gaps or amounts
  Interval interval;
  std::string text;
  bool whiskers() const { return interval.n > 1 && interval.sd > 0; }
};

std::vector<Row> rows_of(const std::vector<ArmRuns>& arms, const std::string& metric, bool gaps) {
  const MetricStyle style = style_of(metric);
  std::vector<Row> rows;
  for (const ArmRuns& arm : arms) {
    const Interval plain = interval_of(numbers_of(arm, metric));
    Row row{&arm, numbers_of(arm, metric), plain, mean_text(style, plain)};
    if (gaps) {
      row.numbers = gaps_to(first_with(arms, metric), arm, metric);
      row.interval = interval_of(row.numbers);
      row.text = number_text(style, plain.mean);
    }
    if (plain.n == 0) row.text = "no number";
    rows.push_back(std::move(row));
  }
  return rows;
}

// A whisker that is far longer than everything else may leave the plot.
Range range_of(const std::vector<Row>& rows, bool from_zero) {
  Range out, means;
  for (const Row& row : rows) {
    for (const double x : row.numbers) means.add(x);
  }
  out = means;
  const double room = means.empty() ? 0 : std::max(means.high - means.low, 1e-9);
  for (const Row& row : rows) {
    if (!row.whiskers()) continue;
    out.add(std::max(row.interval.low, means.low - room));
    out.add(std::min(row.interval.high, means.high + room));
  }
  if (!from_zero) out.add(0);
  if (from_zero) {
    out.low = 0;
    out.high = out.high > 0 ? 1.04 * out.high : 1;
    return out;
  }
  return out.padded(0.08);
}

void draw_row(Svg& svg, const Row& row, const Axis& x, double y, bool from_zero) {
  const report::Look& look = row.arm->look;
  if (row.numbers.empty()) return;
  const double at = x.at(row.interval.mean);
  if (from_zero) {
    svg.box(x.begin(), y - 9, std::max(0.0, at - x.begin()), 18, "#c9d3dc");
    svg.line(at, y - 9, at, y + 9, {report::kInk, 1.6});
  }
  if (row.whiskers()) {
    draw_whisker(svg, x, y, row.interval.low, row.interval.high, false, {report::kInk, 1.3});
  }
  if (!from_zero && row.whiskers()) {
    for (const double number : row.numbers) {
      svg.marker(report::Marker::circle, x.at(number), y, 5, report::kQuiet);
    }
  }
  if (!from_zero) svg.marker(look.marker, at, y, 11, look.colour);
}

std::string whiskers_text(const std::vector<Row>& rows, const Axis& x, bool from_zero) {
  const bool beyond = std::any_of(rows.begin(), rows.end(), [&](const Row& row) {
    return row.whiskers() && leaves(x, row.interval.low, row.interval.high);
  });
  return std::string("whiskers: 95 % interval of the mean") +
         (from_zero ? "" : " difference, seed by seed (small dots)") +
         (beyond ? "; an arrow: it goes on" : "");
}

}  // namespace

std::string draw_bars(const std::vector<ArmRuns>& arms, const std::string& metric,
                      const std::string& title) {
  const MetricStyle style = style_of(metric);
  const std::vector<Row> rows = rows_of(arms, metric, !style.from_zero);
  const Range range = range_of(rows, style.from_zero);
  double labels = 0, numbers = 0;
  if (!style.from_zero) numbers = report::text_width(style.title, report::kTickSize);
  bool several = false;
  for (const Row& row : rows) {
    labels =
        std::max(labels, report::text_width(printable(row.arm->label, 60), report::kLabelSize));
    numbers = std::max(numbers, report::text_width(row.text, report::kLabelSize));
    several |= row.whiskers();
  }
  const double left = kMargin + labels + 14, right = left + kPlot;
  const double bottom = kTop + kRowHeight * static_cast<double>(rows.size());
  const Axis x(range.low, range.high, left, right);
  const Axis y(0, 1, bottom, kTop);

  Svg svg(right + 16 + numbers + kMargin, bottom + 54);
  svg.text(kMargin, 24, title, {report::kTitleSize, Anchor::start, true});
  if (several) {
    svg.text(kMargin, 44, whiskers_text(rows, x, style.from_zero),
             {report::kTickSize, Anchor::start, false, report::kQuiet});
  }
  const double unit = style.counted ? report::unit_for(range.high).value : style.unit;
  report::draw_axes(svg, x, y, x.ticks(7, unit), {});
  const std::string name = style.counted ? report::unit_for(range.high).name : "";
  std::string words = name.empty() ? style.axis : style.axis + " (" + name + ")";
  if (!style.from_zero) words += ", minus that of " + printable(first_with(arms, metric).label, 40);
  svg.text((left + right) / 2, bottom + 40, words, {report::kLabelSize, Anchor::middle});
  if (!style.from_zero) {
    svg.line(x.at(0), kTop, x.at(0), bottom, {report::kQuiet, 1, "4 3"});
    svg.text(right + 16, kTop - 8, style.title,
             {report::kTickSize, Anchor::start, false, report::kQuiet});
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const double at = kTop + kRowHeight * (static_cast<double>(i) + 0.5);
    svg.text(left - 12, at + 4, printable(rows[i].arm->label, 60),
             {report::kLabelSize, Anchor::end});
    draw_row(svg, rows[i], x, at, style.from_zero);
    svg.text(right + 16, at + 4, rows[i].text, {report::kLabelSize});
  }
  return svg.finish();
}

}  // namespace pyramoe::lab
