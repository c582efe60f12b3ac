// The picture of a report, one SVG page: loss curves, validation loss by domain, and for every run
// with experts which of them each domain uses. Read report_curves.cpp and report_heatmap.cpp next.
#pragma once

#include <string>
#include <vector>

#include "report/run.h"
#include "report/svg.h"

namespace pyramoe::report {

struct PictureOptions {
  bool log_tokens = false;  // the axis of tokens
};

// The whole picture as the text of an SVG file. At least one run.
std::string draw_picture(const std::vector<RunReport>& runs, const PictureOptions& options = {});

// ---- The pages' parts

struct Rect {
  double x = 0, y = 0, width = 0, height = 0;
};

// How run number i is drawn: told apart by colour (safe for the colour-blind), by dashes and by
// marker (in grey).
struct Look {
  std::string colour;
  std::string dash;
  Marker marker = Marker::circle;
};
Look look_of(size_t run);

inline constexpr const char* kInk = "#222222";
inline constexpr const char* kQuiet = "#666666";
inline constexpr const char* kGrid = "#e3e3e3";

// Smoothed training loss and validation points against training tokens.
void draw_curves(Svg& svg, const Rect& place, const std::vector<RunReport>& runs, bool log_tokens);
// A row a domain, a marker a run: final validation loss.
void draw_domains(Svg& svg, const Rect& place, const std::vector<RunReport>& runs);

// Expert load of one run: a map a layer, a row a domain, a column an expert.
bool has_load(const RunReport& run);
double heatmap_height(const RunReport& run, double width);
void draw_heatmap(Svg& svg, const Rect& place, const RunReport& run);
// The scale of all heat maps, `height` 34.
void draw_heat_scale(Svg& svg, double x, double y);

// The loss, averaged over a window of a fortieth of the run around about `points` places. A window
// without numbers gives NaN.
std::vector<LossPoint> smooth(const std::vector<LossPoint>& points, size_t count);

}  // namespace pyramoe::report
