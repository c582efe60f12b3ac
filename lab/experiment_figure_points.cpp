// Validation loss against total parameters: what a model's size buys. Grey lines join models with
// the same parameters active per token, which cost the same to run.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/text.h"
#include "lab/experiment_figure.h"
#include "lab/metric_text.h"
#include "report/table.h"

namespace pyramoe::lab {
namespace {

using report::Anchor;
using report::Axis;
using report::Range;
using report::Rect;
using report::Svg;

constexpr double kLeft = 78, kTop = 78, kWidth = 720, kHeight = 400, kRight = 40;
constexpr double kTextHeight = 13;

// Spread and whiskers are of the gap to the first arm within a seed, drawn around the arm's mean.
struct Point {
  const ArmRuns* arm;
  double size = 0, active = 0, loss = 0;
  double low = 0, high = 0;   // of the whisker; both at the loss where there is none
  std::vector<double> seeds;  // where a seed's dot is
};

std::vector<Point> points_of(const std::vector<ArmRuns>& arms) {
  std::vector<Point> out;
  for (const ArmRuns& arm : arms) {
    const std::vector<double> losses = numbers_of(arm, "loss");
    const std::vector<double> size = numbers_of(arm, "params_total");
    const std::vector<double> active = numbers_of(arm, "params_active");
    if (losses.empty() || size.empty() || !(size[0] > 0)) continue;
    Point point{&arm, size[0], active.empty() ? 0 : active[0], interval_of(losses).mean, 0, 0, {}};
    point.low = point.high = point.loss;
    const std::vector<double> gaps = gaps_to(first_with(arms, "loss"), arm, "loss");
    const Interval gap = interval_of(gaps);
    if (gap.n > 1 && gap.sd > 0) {
      point.low -= gap.half();
      point.high += gap.half();
      for (const double x : gaps) point.seeds.push_back(point.loss + x - gap.mean);
    }
    out.push_back(std::move(point));
  }
  return out;
}

// A whisker far longer than everything else may leave the plot.
Range loss_range(const std::vector<Point>& points) {
  Range seeds;
  for (const Point& point : points) {
    seeds.add(point.loss);
    for (const double x : point.seeds) seeds.add(x);
  }
  Range out = seeds;
  const double room = 0.5 * (seeds.high - seeds.low);
  for (const Point& point : points) {
    out.add(std::max(point.low, seeds.low - room));
    out.add(std::min(point.high, seeds.high + room));
  }
  return out.padded(0.1);
}

Axis size_axis(const std::vector<Point>& points) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const Point& point : points) {
    low = std::min(low, point.size);
    high = std::max(high, point.size);
  }
  const bool wide = high > 2.5 * low;  // less has too few round numbers for a logarithmic axis
  // More on the left: labels of the smallest models go there.
  const double left = wide ? std::pow(high / low, 0.2) : 1.2;
  const double right = wide ? std::pow(high / low, 0.12) : 1.15;
  return Axis(low / left, high * right, kLeft, kLeft + kWidth, wide);
}

double overlap(const Rect& a, const Rect& b) {
  const double x = std::min(a.x + a.width, b.x + b.width) - std::max(a.x, b.x);
  const double y = std::min(a.y + a.height, b.y + b.height) - std::max(a.y, b.y);
  return x > 0 && y > 0 ? x * y : 0;
}

// Finds each label a free place near its point, trying the near ones first.
class Labels {
 public:
  void block(const Rect& rect) { taken_.push_back(rect); }

  Rect place(double x, double y, double width) {
    const Rect inside{kLeft + 2, kTop, kWidth + kRight - 6, kHeight};
    std::optional<Rect> best;
    double least = std::numeric_limits<double>::infinity();
    for (const double far : {12.0, 24.0, 40.0, 60.0, 84.0}) {
      for (const auto& [dx, dy] : std::vector<std::pair<double, double>>{{1, 0},
                                                                         {-1, 0},
                                                                         {0.7, -0.8},
                                                                         {0.7, 0.8},
                                                                         {-0.7, -0.8},
                                                                         {-0.7, 0.8},
                                                                         {0, -1},
                                                                         {0, 1}}) {
        const double left = dx > 0 ? x + far * dx : dx < 0 ? x + far * dx - width : x - width / 2;
        const Rect rect{left, y + far * dy - kTextHeight / 2, width, kTextHeight};
        double cost = far * 0.5;
        cost += 20 * (width * kTextHeight - overlap(rect, inside));
        for (const Rect& other : taken_) cost += 5 * overlap(rect, other);
        if (cost < least - 1e-9) {
          least = cost;
          best = rect;
        }
      }
    }
    block(*best);
    return *best;
  }

 private:
  std::vector<Rect> taken_;
};

// A line for each set of models that cost the same, from small to large.
void draw_groups(Svg& svg, const std::vector<Point>& points, const Axis& x, const Axis& y) {
  std::vector<const Point*> order;
  for (const Point& point : points) {
    if (point.active > 0) order.push_back(&point);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Point* a, const Point* b) { return a->size < b->size; });
  std::vector<bool> done(order.size(), false);
  for (size_t i = 0; i < order.size(); ++i) {
    report::Points line;
    for (size_t j = i; j < order.size(); ++j) {
      // Routers grow with their experts: a few parts in a hundred.
      if (done[j] || std::fabs(order[j]->active / order[i]->active - 1) > 0.04) continue;
      done[j] = true;
      line.emplace_back(x.at(order[j]->size), y.at(order[j]->loss));
    }
    svg.path(line, {"#b0b0b0", 1.4, "2 3"});
  }
}

void draw_point(Svg& svg, const Point& point, const Axis& x, const Axis& y) {
  const report::Look& look = point.arm->look;
  const double at = x.at(point.size);
  if (point.low < point.high) {
    draw_whisker(svg, y, at, point.low, point.high, true, {look.colour, 1.4});
    for (const double loss : point.seeds) {
      svg.marker(report::Marker::circle, at, y.at(loss), 4.5, report::kQuiet);
    }
  }
  svg.begin_tip(fmt::format("{}: {:.4f} with {} parameters", printable(point.arm->label, 60),
                            point.loss, report::short_count(point.size)));
  svg.marker(look.marker, at, y.at(point.loss), 12, look.colour);
  svg.end_tip();
}

void draw_labels(Svg& svg, const std::vector<Point>& points, const Axis& x, const Axis& y) {
  Labels labels;
  for (const Point& point : points) {
    const double at = x.at(point.size), mean = y.at(point.loss);
    labels.block({at - 7, mean - 7, 14, 14});
    const double low = std::min(y.begin(), y.at(point.low));
    const double high = std::max(y.end(), y.at(point.high));
    labels.block({at - 5, high, 10, low - high});
  }
  for (const Point& point : points) {
    const std::string text = printable(point.arm->label, 60);
    const double at = x.at(point.size), mean = y.at(point.loss);
    const double width = report::text_width(text, report::kLabelSize);
    const Rect rect = labels.place(at, mean, width);
    const double middle = rect.y + rect.height / 2;
    const double edge = std::clamp(at, rect.x, rect.x + width);
    if (std::hypot(edge - at, middle - mean) > 20) {
      svg.line(at, mean, edge, middle, {report::kQuiet, 0.6, "", 0.7});
    }
    const bool right = rect.x > at, left = rect.x + width < at;
    const Anchor anchor = right ? Anchor::start : left ? Anchor::end : Anchor::middle;
    svg.text(right  ? rect.x
             : left ? rect.x + width
                    : rect.x + width / 2,
             middle + 4, text, {report::kLabelSize, anchor, false, report::kInk, 0, true});
  }
}

}  // namespace

std::string draw_loss_by_parameters(const std::vector<ArmRuns>& arms, const std::string& title) {
  const std::vector<Point> points = points_of(arms);
  if (points.empty()) return draw_bars(arms, "loss", title);
  const Axis x = size_axis(points);
  const Range range = loss_range(points);
  const Axis y(range.low, range.high, kTop + kHeight, kTop);

  Svg svg(kLeft + kWidth + kRight, kTop + kHeight + 58);
  svg.text(kLeft, 24, title, {report::kTitleSize, Anchor::start, true});
  const auto has_whisker = [](const Point& point) { return point.low < point.high; };
  const auto goes_on = [&](const Point& point) { return leaves(y, point.low, point.high); };
  const report::TextStyle quiet = {report::kTickSize, Anchor::start, false, report::kQuiet};
  if (std::any_of(points.begin(), points.end(), has_whisker)) {
    svg.text(
        kLeft, 44,
        "whiskers: 95 % interval of the gap to " + printable(first_with(arms, "loss").label, 60) +
            ", seed by seed (small dots)" +
            (std::any_of(points.begin(), points.end(), goes_on) ? "; an arrow: it goes on" : ""),
        quiet);
  }
  svg.text(kLeft, 61, "dotted line: same parameters active per token", quiet);
  const report::Unit unit = report::unit_for(x.high());
  report::draw_axes(svg, x, y, x.ticks(6, unit.value), y.ticks(6));
  svg.text(kLeft + kWidth / 2, kTop + kHeight + 42,
           unit.name.empty() ? "total parameters" : "total parameters (" + unit.name + ")",
           {report::kLabelSize, Anchor::middle});
  svg.text(18, kTop + kHeight / 2, "validation loss (nats per token)",
           {report::kLabelSize, Anchor::middle, false, report::kInk, -90});
  draw_groups(svg, points, x, y);
  for (const Point& point : points) draw_point(svg, point, x, y);
  draw_labels(svg, points, x, y);
  return svg.finish();
}

}  // namespace pyramoe::lab
