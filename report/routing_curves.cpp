// Curves of the routing page: one small chart a quantity, one line a layer of experts.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/axis.h"
#include "report/routing_parts.h"
#include "report/svg.h"

namespace pyramoe::report {
namespace {

constexpr double kWidth = 360, kHeight = 200;
constexpr double kLeft = 44, kRight = 350, kTop = 10, kBottom = 168;

// Chart's text is small; two decimals say enough.
std::string short_number(double value, bool percent) {
  return percent ? fmt::format("{:.1f} %", 100 * value) : fmt::format("{:.2f}", value);
}

std::string polyline(const Line& line, const Axis& x, const Axis& y, bool percent) {
  std::string out, points;
  size_t count = 0;
  std::string alone;  // a line of one point is a dot
  const auto finish = [&] {
    if (count == 1) out += alone;
    if (count > 1) out += fmt::format("<polyline points=\"{}\"/>", points);
    points.clear();
    count = 0;
  };
  double last = std::nan("");
  for (const auto& [tokens, value] : line.points) {
    if (!std::isfinite(value)) {
      finish();
      continue;
    }
    last = value;
    const std::string px = coordinate(x.at(tokens)), py = coordinate(y.at(value));
    points += (points.empty() ? "" : " ") + px + "," + py;
    alone = fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"2.5\"/>", px, py);
    ++count;
  }
  finish();
  return fmt::format("<g class=\"line\" style=\"--c:{}\"><title>{}: {} at the end</title>{}</g>\n",
                     line.colour, html_escape(line.name), short_number(last, percent), out);
}

std::string axes(const Axis& x, const Axis& y, bool percent) {
  std::string out;
  for (const Tick& tick : y.ticks(5, percent ? 0.01 : 1)) {
    const std::string at = coordinate(y.at(tick.value));
    out += fmt::format(
        "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>"
        "<text x=\"{}\" y=\"{}\" dy=\"4\" text-anchor=\"end\">{}{}</text>\n",
        kLeft, kRight, at, at, kLeft - 6, at, tick.label, percent ? "%" : "");
  }
  const Unit unit = unit_for(x.high());
  for (const Tick& tick : x.ticks(4, unit.value)) {
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                       coordinate(x.at(tick.value)), kBottom + 15, tick.label);
  }
  return out + fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">tokens{}</text>\n", kRight,
                           kBottom + 29, unit.name.empty() ? "" : ", " + unit.name);
}

}  // namespace

std::string draw_lines(const LineChart& chart) {
  double most_tokens = 0, low = chart.low, high = chart.high;
  bool any = false;
  for (const Line& line : chart.lines) {
    for (const auto& [tokens, value] : line.points) {
      most_tokens = std::max(most_tokens, tokens);
      if (!std::isfinite(value)) continue;
      any = true;
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  std::string picture = fmt::format("<p class=\"nothing\">{}</p>", chart.nothing);
  if (any && most_tokens > 0) {
    const Axis x(0, most_tokens, kLeft, kRight);
    const Axis y(low, high + 0.04 * (high - low), kBottom, kTop);
    picture = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n{}", kWidth,
                          kHeight, html_escape(chart.title), axes(x, y, chart.percent));
    for (const Line& line : chart.lines) picture += polyline(line, x, y, chart.percent);
    picture += "</svg>";
  }
  return fmt::format(
      "<figure class=\"chart\"><figcaption>{}</figcaption>\n{}\n<p class=\"note\">{}</p>"
      "</figure>\n",
      html_escape(chart.title), picture, chart.note);
}

// Few layers get colours that are far apart; many a walk from blue over green to red, so that
// depth shows.
std::string layer_colour(size_t layer, size_t layers) {
  static const char* kFew[] = {"#2f7de1", "#e2700c", "#0f9d76", "#b054d8", "#d64570", "#7c8896"};
  if (layers <= std::size(kFew)) return kFew[layer];
  const double share = static_cast<double>(layer) / static_cast<double>(layers - 1);
  return fmt::format("hsl({} 70% 48%)", std::lround(220 - 210 * share));
}

}  // namespace pyramoe::report
