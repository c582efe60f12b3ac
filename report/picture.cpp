#include "report/picture.h"

#include <algorithm>

#include "core/error.h"
#include "report/table.h"

namespace pyramoe::report {
namespace {

constexpr double kWidth = 1120, kMargin = 28, kTop = 30;
constexpr double kChartHeight = 400, kGap = 34, kScaleHeight = 48;

}  // namespace

Look look_of(size_t run) {
  // Okabe and Ito's colours but for yellow, which white paper swallows, then a brown and a grey;
  // dashes and markers repeat with another period than the colours.
  static const std::vector<std::string> kColours = {"#0072B2", "#D55E00", "#009E73",
                                                    "#CC79A7", "#000000", "#56B4E9",
                                                    "#E69F00", "#8C510A", "#808080"};
  static const std::vector<std::string> kDashes = {"", "7 3", "2 2.5", "9 3 2 3"};
  static const std::vector<Marker> kMarkers = {Marker::circle, Marker::square, Marker::triangle,
                                               Marker::diamond};
  return {kColours[run % kColours.size()], kDashes[run % kDashes.size()],
          kMarkers[run % kMarkers.size()]};
}

std::string draw_picture(const std::vector<RunReport>& runs, const PictureOptions& options) {
  PM_CHECK(!runs.empty(), "draw_picture: no runs");
  const double inner = kWidth - 2 * kMargin;
  const bool domains = domain_names(runs).size() > 1;
  const bool heat = std::any_of(runs.begin(), runs.end(), has_load);
  double height = kTop + kChartHeight + kMargin;
  for (const RunReport& run : runs) {
    if (has_load(run)) height += kGap + heatmap_height(run, inner);
  }
  if (heat) height += kScaleHeight;

  Svg svg(kWidth, height);
  const double curves = domains ? 0.63 * inner : inner;
  draw_curves(svg, {kMargin, kTop, curves, kChartHeight}, runs, options.log_tokens);
  if (domains) {
    draw_domains(svg, {kMargin + curves + 36, kTop, inner - curves - 36, kChartHeight}, runs);
  }
  double y = kTop + kChartHeight;
  for (const RunReport& run : runs) {
    if (!has_load(run)) continue;
    y += kGap;
    const Rect place{kMargin, y, inner, heatmap_height(run, inner)};
    draw_heatmap(svg, place, run);
    y += place.height;
  }
  if (heat) draw_heat_scale(svg, kMargin, y + 20);
  return svg.finish();
}

}  // namespace pyramoe::report
