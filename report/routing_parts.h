// The building blocks of the routing page: maps, curves, coloured text. Each gives HTML that takes
// its colours from the page's style, so that light, dark and print are the style's business alone.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "report/routing_observe.h"

namespace pyramoe::report {

// Text made safe inside HTML; control bytes and bytes that are not UTF-8 become U+FFFD.
std::string html_escape(std::string_view text);

// ---- Maps: a colour for how many times its fair share a cell has

struct MapLabel {
  double place = 0;  // 0 … 1 along the side
  std::string text;
};

struct HeatMap {
  std::string caption, note;  // HTML
  std::string alt;            // what it is, for people who cannot see it
  int64_t rows = 0, columns = 0;
  std::vector<double> ratio;  // (rows, columns); NaN = nothing known
  std::vector<MapLabel> row_labels, column_labels;
  std::vector<std::string> row_names, column_names;  // what a tip says
  std::string unit;                                  // "times an even share"
  bool wide = false;  // fills the page's width (time), else cells are near squares
};
std::string draw_map(const HeatMap& map);
// What the colours mean, in words and colours.
std::string map_legend(const std::string& low, const std::string& even, const std::string& high);
// A label for every row or column, or for every second, fifth, … where there are many.
std::vector<MapLabel> even_labels(const std::vector<std::string>& names, size_t most);
std::vector<std::string> expert_names(int64_t experts);

// ---- Curves over training

struct Line {
  std::string name, colour;
  std::vector<std::pair<double, double>> points;  // tokens, value; NaN breaks the line
};

struct LineChart {
  std::string title, note;  // note: HTML, one sentence
  std::vector<Line> lines;
  double low = 0, high = 1;  // at least this range is shown
  bool percent = false;
  std::string nothing;  // said in place of a picture without lines
};
std::string draw_lines(const LineChart& chart);
std::string layer_colour(size_t layer, size_t layers);

// ---- Single tokens

// Which experts follow which, and which are chosen together, layer by layer.
std::string draw_company(const Observation& seen);

struct DomainUse {
  int64_t block = 0;
  std::vector<std::string> domains;
  Counts choices;  // (domains, experts)
};
// A map a layer: the domains' shares of its experts.
std::string draw_domains(const std::vector<DomainUse>& layers, Sharers who);

// ---- Text

// Switches for the layers, the sample of each domain, and what every expert likes to read.
std::string draw_texts(const Observation& seen);

// ---- What holds it together

extern const char* const kRoutingStyle;
extern const char* const kRoutingScript;

}  // namespace pyramoe::report
