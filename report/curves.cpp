// The upper half of the picture: loss against tokens, and loss by domain.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/text.h"
#include "report/axis.h"
#include "report/chart.h"
#include "report/picture.h"
#include "report/table.h"

namespace pyramoe::report {
namespace {

constexpr size_t kCurvePoints = 240;

// Parts of the curve between its gaps.
std::vector<Points> pieces(const std::vector<LossPoint>& curve, const Axis& x, const Axis& y) {
  std::vector<Points> out(1);
  for (const LossPoint& point : curve) {
    if (point.tokens < x.low()) continue;
    if (std::isfinite(point.loss)) {
      out.back().emplace_back(x.at(point.tokens), y.at(point.loss));
    } else if (!out.back().empty()) {
      out.emplace_back();
    }
  }
  return out;
}

struct Curves {
  std::vector<std::vector<LossPoint>> training;  // smoothed, one a run
  Range tokens, loss;
};

// On a linear axis the first tenth of the run would squeeze the rest into a thin band: it may leave
// the chart at the top.
Curves collect(const std::vector<RunReport>& runs, bool log_tokens) {
  Curves out;
  for (const RunReport& run : runs) {
    out.training.push_back(smooth(run.training, kCurvePoints));
    for (const LossPoint& p : out.training.back()) out.tokens.add(p.tokens);
    for (const LossPoint& p : run.validation) out.tokens.add(p.tokens);
  }
  const double begin = log_tokens ? 0 : 0.1 * out.tokens.high;
  for (size_t i = 0; i < runs.size(); ++i) {
    for (const LossPoint& p : out.training[i]) {
      if (p.tokens >= begin) out.loss.add(p.loss);
    }
    for (const LossPoint& p : runs[i].validation) {
      if (p.tokens >= begin) out.loss.add(p.loss);
    }
  }
  return out;
}

constexpr double kLegendRow = 22;

// The upper right corner of the chart.
Rect legend_place(double right, double top, const std::vector<RunReport>& runs) {
  size_t longest = 0;
  for (const RunReport& run : runs) longest = std::max(longest, printable(run.name, 40).size());
  const double width = 62 + 7.4 * static_cast<double>(longest) + 60 + 8;
  return {right - width, top - 4, width, kLegendRow * static_cast<double>(runs.size()) + 26};
}

// The highest loss of a curve right of `left`, a line that comes in from there included.
double highest_right_of(double left, const std::vector<LossPoint>& curve, const Axis& x) {
  Range seen;
  const LossPoint* before = nullptr;
  for (const LossPoint& point : curve) {
    const bool drawn = std::isfinite(point.loss) && point.tokens >= x.low();
    if (drawn && x.at(point.tokens) >= left) {
      seen.add(point.loss);
      if (before && x.at(before->tokens) < left) {
        const double from = x.at(before->tokens);
        const double share = (left - from) / (x.at(point.tokens) - from);
        seen.add(before->loss + share * (point.loss - before->loss));
      }
    }
    before = drawn ? &point : nullptr;
  }
  return seen.high;
}

// Curves usually leave the corner of the legend free. Where they do not, the axis goes on above
// them, so that it hides nothing.
Range with_room(Range loss, const Rect& legend, double height, const Axis& x, const Curves& curves,
                const std::vector<RunReport>& runs) {
  double highest = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < runs.size(); ++i) {
    highest = std::max({highest, highest_right_of(legend.x, curves.training[i], x),
                        highest_right_of(legend.x, runs[i].validation, x)});
  }
  constexpr double kMarker = 8;
  const double share = std::min(0.7, (legend.height + kMarker) / height);
  loss.high = std::max(loss.high, loss.low + (highest - loss.low) / (1 - share));
  return loss;
}

void draw_legend(Svg& svg, const Rect& place, const std::vector<RunReport>& runs) {
  const double left = place.x + 8, right = place.x + place.width, top = place.y + 4;
  svg.box(place.x, place.y, place.width, place.height, "#ffffff");
  svg.text(right - 6, top + 12, "validation", {kTickSize, Anchor::end, false, kQuiet});
  for (size_t i = 0; i < runs.size(); ++i) {
    const Look look = look_of(i);
    const double y = top + 30 + kLegendRow * static_cast<double>(i);
    svg.line(left, y - 4, left + 44, y - 4, {look.colour, 2.2, look.dash});
    svg.marker(look.marker, left + 22, y - 4, 9, look.colour);
    svg.text(left + 54, y, printable(runs[i].name, 40), {kLabelSize});
    if (std::isfinite(runs[i].loss)) {
      svg.text(right - 6, y, fmt::format("{:.3f}", runs[i].loss), {kLabelSize, Anchor::end, true});
    }
  }
}

}  // namespace

std::vector<LossPoint> smooth(const std::vector<LossPoint>& points, size_t count) {
  std::vector<LossPoint> out;
  const size_t n = points.size();
  const size_t stride = std::max<size_t>(1, n / std::max<size_t>(1, count));
  const auto average = [&](size_t i) {
    // The window shrinks towards the ends, so that i stays in its middle.
    const size_t reach = std::min({n / 80, i, n - 1 - i});
    double sum = 0, seen = 0;
    for (size_t j = i - reach; j <= i + reach; ++j) {
      if (!std::isfinite(points[j].loss)) continue;
      sum += points[j].loss;
      ++seen;
    }
    out.push_back({points[i].tokens, sum / seen});
  };
  for (size_t i = 0; i + 1 < n; i += stride) average(i);
  if (n > 0) average(n - 1);
  return out;
}

void draw_curves(Svg& svg, const Rect& place, const std::vector<RunReport>& runs, bool log_tokens) {
  const Curves curves = collect(runs, log_tokens);
  const double left = place.x + 58, right = place.x + place.width;
  const double top = place.y + 18, bottom = place.y + place.height - 48;
  const double most = std::max(1.0, std::isfinite(curves.tokens.high) ? curves.tokens.high : 1.0);
  const double least =
      log_tokens ? std::max(most / 1000, std::min(curves.tokens.low, most / 2)) : 0;
  const Axis x(std::max(least, log_tokens ? 1e-3 : 0.0), most * (log_tokens ? 1.1 : 1.02), left,
               right, log_tokens);
  const Rect legend = legend_place(right, top, runs);
  const Range loss = with_room(curves.loss.padded(0.04), legend, bottom - top, x, curves, runs);
  const Axis y(loss.low, loss.high, bottom, top);

  svg.text(place.x, place.y, "Loss", {kTitleSize, Anchor::start, true});
  svg.text(place.x + 44, place.y, "thin: training, smoothed; with markers: validation",
           {kTickSize, Anchor::start, false, kQuiet});
  const Unit unit = unit_for(most);
  draw_axes(svg, x, y, x.ticks(7, unit.value), y.ticks(7));
  svg.text((left + right) / 2, bottom + 40,
           unit.name.empty() ? "training tokens" : "training tokens (" + unit.name + ")",
           {kLabelSize, Anchor::middle});
  svg.text(place.x + 12, (top + bottom) / 2, "loss (nats per token)",
           {kLabelSize, Anchor::middle, false, kInk, -90});
  svg.begin_clip(left, top, right - left + 8, bottom - top);
  for (size_t i = 0; i < runs.size(); ++i) {
    const Look look = look_of(i);
    for (const Points& piece : pieces(curves.training[i], x, y)) {
      svg.path(piece, {look.colour, 1, "", 0.5});
    }
    for (const Points& piece : pieces(runs[i].validation, x, y)) {
      svg.path(piece, {look.colour, 2, look.dash});
    }
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    const Look look = look_of(i);
    for (const LossPoint& point : runs[i].validation) {
      if (!std::isfinite(point.loss) || point.tokens < x.low()) continue;
      svg.begin_tip(fmt::format("{}: {:.4f} after {} tokens", printable(runs[i].name, 40),
                                point.loss, short_count(point.tokens)));
      svg.marker(look.marker, x.at(point.tokens), y.at(point.loss), 10, look.colour);
      svg.end_tip();
    }
  }
  svg.end_clip();
  draw_legend(svg, legend, runs);
}

void draw_domains(Svg& svg, const Rect& place, const std::vector<RunReport>& runs) {
  const std::vector<std::string> names = domain_names(runs);
  Range range;
  size_t longest = 0;
  for (const std::string& name : names) {
    longest = std::max(longest, printable(name, 20).size());
    for (const RunReport& run : runs) {
      if (const DomainLoss* domain = find_domain(run, name)) range.add(domain->loss);
    }
  }
  range = range.padded(0.08);
  const double left = place.x + 12 + 7.2 * static_cast<double>(longest);
  const double right = place.x + place.width - 4;
  const double top = place.y + 18, bottom = place.y + place.height - 48;
  const Axis x(range.low, range.high, left, right);
  const Axis y(-static_cast<double>(names.size()), 0, bottom, top);  // rows downwards from 0

  svg.text(place.x, place.y, "Validation loss by domain", {kTitleSize, Anchor::start, true});
  draw_axes(svg, x, y, x.ticks(5), {});
  svg.text((left + right) / 2, bottom + 40, "loss (nats per token)", {kLabelSize, Anchor::middle});
  const double part = 1.0 / static_cast<double>(runs.size() + 1);
  for (size_t row = 0; row < names.size(); ++row) {
    const auto begin = static_cast<double>(row);
    svg.text(left - 10, y.at(-begin - 0.5) + 4, printable(names[row], 20),
             {kLabelSize, Anchor::end});
    if (row > 0) svg.line(left, y.at(-begin), right, y.at(-begin), {kGrid});
    for (size_t i = 0; i < runs.size(); ++i) {
      const DomainLoss* domain = find_domain(runs[i], names[row]);
      if (!domain || !std::isfinite(domain->loss)) continue;
      const Look look = look_of(i);
      const double at = y.at(-begin - part * static_cast<double>(i + 1));
      svg.begin_tip(fmt::format("{}, {}: {:.4f}", printable(runs[i].name, 40),
                                printable(names[row], 20), domain->loss));
      svg.line(left, at, x.at(domain->loss), at, {look.colour, 1.2, look.dash, 0.55});
      svg.marker(look.marker, x.at(domain->loss), at, 10, look.colour);
      svg.end_tip();
    }
  }
}

}  // namespace pyramoe::report
