// Validation loss against tokens, and below it, on the same axis of tokens, the difference to the
// first arm within each seed: gaps far smaller than the fall of the loss are seen there.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "core/text.h"
#include "lab/experiment_figure.h"

namespace pyramoe::lab {
namespace {

using report::Anchor;
using report::Axis;
using report::Range;
using report::Svg;

constexpr double kLeft = 74, kPlot = 560, kTop = 58, kUpper = 300, kLower = 270, kBetween = 46;
constexpr double kRow = 18;  // between labels

// What one panel draws of an arm.
struct Line {
  const ArmRuns* arm = nullptr;
  std::vector<Curve> seeds;
  Curve mean;        // at tokens that every seed has
  double last = 0;   // of the mean
  std::string text;  // its number at the end
};

// The mean over curves, at those tokens that all of them have.
Curve mean_of(const std::vector<Curve>& curves) {
  std::map<double, std::pair<double, size_t>> at;
  for (const Curve& curve : curves) {
    for (const auto& [tokens, loss] : curve) {
      at[tokens].first += loss;
      ++at[tokens].second;
    }
  }
  Curve out;
  for (const auto& [tokens, sum] : at) {
    if (sum.second == curves.size()) {
      out.emplace_back(tokens, sum.first / static_cast<double>(sum.second));
    }
  }
  return out;
}

Curve finite(const Curve& curve) {
  Curve out;
  for (const auto& point : curve) {
    if (std::isfinite(point.first) && std::isfinite(point.second)) out.push_back(point);
  }
  return out;
}

// curve - base, with base on the straight lines between its points.
Curve minus(const Curve& curve, const Curve& base) {
  Curve out;
  for (const auto& [tokens, loss] : curve) {
    const double t = tokens;
    const auto after =
        std::find_if(base.begin(), base.end(), [t](const auto& point) { return point.first >= t; });
    if (after == base.end()) continue;
    double there = after->second;
    if (after->first > t) {
      if (after == base.begin()) continue;
      const auto before = after - 1;
      const double share = (t - before->first) / (after->first - before->first);
      there = before->second + share * (after->second - before->second);
    }
    out.emplace_back(t, loss - there);
  }
  return out;
}

// With its sign where it is a difference, but no "-0.000".
std::string end_text(double x, bool difference) {
  if (std::fabs(x) < 0.0005) return "0.000";
  return difference ? fmt::format("{:+.3f}", x) : fmt::format("{:.3f}", x);
}

void finish(Line& line, bool difference) {
  std::erase_if(line.seeds, [](const Curve& curve) { return curve.empty(); });
  if (line.seeds.empty()) return;
  line.mean = mean_of(line.seeds);
  if (line.mean.empty()) line.mean = line.seeds.front();
  line.last = line.mean.back().second;
  line.text = end_text(line.last, difference);
}

std::vector<Line> loss_lines(const std::vector<ArmRuns>& arms) {
  std::vector<Line> lines;
  for (const ArmRuns& arm : arms) {
    Line line{&arm, {}, {}, 0, ""};
    for (const RunResult* run : arm.runs) line.seeds.push_back(finite(run->validation));
    finish(line, false);
    if (!line.seeds.empty()) lines.push_back(std::move(line));
  }
  return lines;
}

std::vector<Line> difference_lines(const std::vector<Line>& losses) {
  std::vector<Line> lines;
  const ArmRuns& first = *losses.front().arm;
  for (const Line& loss : losses) {
    Line line{loss.arm, {}, {}, 0, ""};
    for (const RunResult* run : loss.arm->runs) {
      for (const RunResult* base : first.runs) {
        if (base->seed != run->seed) continue;
        line.seeds.push_back(minus(finite(run->validation), finite(base->validation)));
      }
    }
    finish(line, true);
    if (!line.seeds.empty()) lines.push_back(std::move(line));
  }
  if (!lines.empty() && lines.front().arm == &first) lines.front().text = "0";
  return lines;
}

// The beginning, where the loss falls fast, would squeeze the rest into a thin band: it may leave
// the panel.
Range range_of(const std::vector<Line>& lines, double from) {
  Range out;
  for (const Line& line : lines) {
    for (const Curve& curve : line.seeds) {
      for (const auto& [tokens, loss] : curve) {
        if (tokens >= from) out.add(loss);
      }
    }
  }
  return out.padded(0.06);
}

// "one seed", "3 seeds", or "2 to 3 seeds" where lines have different numbers of them.
std::string seeds_text(const std::vector<Line>& lines, size_t first = 0) {
  size_t fewest = lines[first].seeds.size(), most = fewest;
  for (size_t i = first; i < lines.size(); ++i) {
    fewest = std::min(fewest, lines[i].seeds.size());
    most = std::max(most, lines[i].seeds.size());
  }
  if (most == 1) return "one seed";
  return fewest == most ? fmt::format("{} seeds", most)
                        : fmt::format("{} to {} seeds", fewest, most);
}

report::Points points_of(const Curve& curve, const Axis& x, const Axis& y) {
  report::Points out;
  for (const auto& [tokens, loss] : curve) out.emplace_back(x.at(tokens), y.at(loss));
  return out;
}

void draw_line(Svg& svg, const Line& line, const Axis& x, const Axis& y) {
  const report::Look& look = line.arm->look;
  if (line.seeds.size() > 1) {
    for (const Curve& curve : line.seeds) {
      svg.path(points_of(curve, x, y), {look.colour, 0.8, "", 0.45});
    }
  }
  svg.path(points_of(line.mean, x, y), {look.colour, 2.2, look.dash});
  const size_t stride = (line.mean.size() + 7) / 8;
  for (size_t i = 0; i < line.mean.size(); ++i) {
    if ((line.mean.size() - 1 - i) % stride != 0) continue;
    const auto& [tokens, loss] = line.mean[i];
    svg.marker(look.marker, x.at(tokens), y.at(loss), 8, look.colour);
  }
}

// At the right of the lines: sample, label, number, joined to the line's end.
void draw_labels(Svg& svg, const std::vector<Line>& lines, const Axis& x, const Axis& y,
                 double width) {
  std::vector<double> wanted;
  for (const Line& line : lines) wanted.push_back(std::clamp(y.at(line.last), y.end(), y.begin()));
  const std::vector<double> at = report::spread(wanted, kRow, y.end() - 10, y.begin() + 14);
  for (size_t i = 0; i < lines.size(); ++i) {
    const report::Look& look = lines[i].arm->look;
    const double left = x.end() + 26, end = x.at(lines[i].mean.back().first);
    svg.line(end + 6, wanted[i], left - 3, at[i], {report::kQuiet, 0.6, "", 0.7});
    svg.line(left, at[i], left + 30, at[i], {look.colour, 2.2, look.dash});
    svg.marker(look.marker, left + 15, at[i], 8, look.colour);
    svg.text(left + 38, at[i] + 4, printable(lines[i].arm->label, 60), {report::kLabelSize});
    svg.text(x.end() + width, at[i] + 4, lines[i].text, {report::kLabelSize, Anchor::end, true});
  }
}

struct Panel {
  double top, height;
  std::string title, axis;
};

void draw_panel(Svg& svg, const Panel& panel, const std::vector<Line>& lines, double most,
                double labels, const Range& range) {
  const Axis x(0, most, kLeft, kLeft + kPlot);
  const Axis y(range.low, range.high, panel.top + panel.height, panel.top);
  const report::Unit unit = report::unit_for(most);
  report::draw_axes(svg, x, y, x.ticks(6, unit.value), y.ticks(8));
  svg.text(kLeft, panel.top - 10, panel.title, {report::kLabelSize, Anchor::start, true});
  svg.text(16, panel.top + panel.height / 2, panel.axis,
           {report::kLabelSize, Anchor::middle, false, report::kInk, -90});
  svg.text(kLeft + kPlot / 2, panel.top + panel.height + 38,
           unit.name.empty() ? "training tokens" : "training tokens (" + unit.name + ")",
           {report::kLabelSize, Anchor::middle});
  svg.begin_clip(kLeft, panel.top, kPlot + 8, panel.height);  // right: markers at the last token
  for (const Line& line : lines) draw_line(svg, line, x, y);
  svg.end_clip();
  draw_labels(svg, lines, x, y, labels);
}

}  // namespace

std::string draw_loss_curves(const std::vector<ArmRuns>& arms, const std::string& title) {
  const std::vector<Line> losses = loss_lines(arms);
  if (losses.empty()) return draw_bars(arms, "loss", title);  // arms that only evaluate
  const std::vector<Line> gaps = difference_lines(losses);
  const bool two = gaps.size() > 1;

  double most = 0, longest = 0;
  for (const Line& line : losses) {
    for (const Curve& curve : line.seeds) most = std::max(most, curve.back().first);
    longest =
        std::max(longest, report::text_width(printable(line.arm->label, 60), report::kLabelSize));
  }
  if (!(most > 0)) most = 1;
  const double rows = kRow * static_cast<double>(losses.size());
  const double upper = std::max(kUpper, rows), lower = std::max(kLower, rows);
  const double labels = 26 + 38 + longest + 66;
  const double second = kTop + upper + 50 + kBetween;

  Svg svg(kLeft + kPlot + labels + 14, (two ? second + lower : kTop + upper) + 54);
  svg.text(kLeft, 24, title, {report::kTitleSize, Anchor::start, true});
  std::string note = seeds_text(losses);
  if (note != "one seed") note = "bold: mean of " + note + "; thin: each";
  draw_panel(svg, {kTop, upper, "Validation loss (" + note + ")", "nats per token"}, losses, most,
             labels, range_of(losses, 0.1 * most));
  if (two) {
    const std::string base = printable(gaps.front().arm->label, 60);
    Range range = range_of(gaps, 0.1 * most);
    range.add(0);
    const std::string what = "Difference to " + base + ", seed by seed";
    draw_panel(svg, {second, lower, what + " (" + seeds_text(gaps, 1) + ")", "nats per token"},
               gaps, most, labels, range);
  }
  return svg.finish();
}

}  // namespace pyramoe::lab
