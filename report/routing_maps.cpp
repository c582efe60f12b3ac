// Heat maps of the routing page: a palette picture of one pixel a cell, stretched by the browser,
// with labels in HTML so that letters keep their size on any screen.
//
// Even is clear, so the page's own background shows; more is orange, less is blue, each the
// stronger the further away on a logarithmic scale. Both ends stay apart for the colour-blind.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/text.h"
#include "data/utf8.h"
#include "report/png.h"
#include "report/routing_parts.h"
#include "report/svg.h"

namespace pyramoe::report {
namespace {

constexpr double kFull = 4;  // times its share at which a colour is full; below, a quarter
constexpr uint8_t kUnknown = 255;
constexpr int kEven = 127;

const Palette& palette() {
  static const Palette colours = [] {
    Palette p{};
    for (int i = 0; i < kUnknown; ++i) {
      const double far = static_cast<double>(i - kEven) / kEven;  // -1 … 1
      const auto opacity = static_cast<uint8_t>(std::lround(255 * std::pow(std::fabs(far), 0.85)));
      p[static_cast<size_t>(i)] =
          far > 0 ? Pixel{226, 106, 0, opacity} : Pixel{38, 104, 214, opacity};
    }
    return p;
  }();
  return colours;
}

uint8_t colour_of(double ratio) {
  if (!std::isfinite(ratio)) return kUnknown;
  const double far = ratio > 0 ? std::log(ratio) / std::log(kFull) : -1;
  return static_cast<uint8_t>(kEven + std::lround(kEven * std::clamp(far, -1.0, 1.0)));
}

// What a script shows when the mouse is over a cell: hundredths, and nothing for what is unknown.
std::string values_of(const HeatMap& map) {
  std::string out;
  for (size_t i = 0; i < map.ratio.size(); ++i) {
    if (i > 0) out += ',';
    const double ratio = map.ratio[i];
    if (std::isfinite(ratio)) out += std::to_string(std::lround(100 * std::min(ratio, 99.0)));
  }
  return out;
}

std::string names_of(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : "|") + html_escape(name);
  return out;
}

std::string labels_of(const std::vector<MapLabel>& labels, const char* side) {
  std::string out;
  for (const MapLabel& label : labels) {
    out += fmt::format("<span style=\"{}:{}%\">{}</span>", side, coordinate(100 * label.place),
                       html_escape(label.text));
  }
  return out;
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const data::CodePoint c = data::decode_utf8(text.data() + i, text.data() + text.size());
    const std::string_view bytes = text.substr(i, static_cast<size_t>(std::max(1, c.length)));
    i += bytes.size();
    if (c.length == 0 || (c.value < 32 && c.value != '\n' && c.value != '\t') || c.value == 127) {
      out += "\xEF\xBF\xBD";
    } else if (c.value == '<') {
      out += "&lt;";
    } else if (c.value == '>') {
      out += "&gt;";
    } else if (c.value == '&') {
      out += "&amp;";
    } else if (c.value == '"') {
      out += "&quot;";
    } else {
      out += bytes;
    }
  }
  return out;
}

std::string draw_map(const HeatMap& map) {
  if (map.rows * map.columns == 0) return "";
  std::vector<uint8_t> pixels;
  for (const double ratio : map.ratio) pixels.push_back(colour_of(ratio));
  const auto row = std::clamp<int64_t>((map.wide ? 240 : 320) / map.rows, 3, map.wide ? 22 : 28);
  const auto column = std::clamp<int64_t>(360 / map.columns, 3, 40);
  size_t gutter = 1;  // letters of the longest row label
  for (const MapLabel& label : map.row_labels) gutter = std::max(gutter, label.text.size());
  const std::string width = coordinate(0.48 * static_cast<double>(gutter + 1));  // rem
  const std::string size =
      map.wide ? "" : fmt::format(";--width:calc({}px + {}rem)", column * map.columns, width);
  return fmt::format(
      "<figure class=\"map{}\" style=\"--gutter:{}rem{}\">\n<figcaption>{}</figcaption>\n"
      "<div class=\"cells\"><div class=\"rows\">{}</div>"
      "<img src=\"{}\" alt=\"{}\" style=\"height:{}px\" data-rows=\"{}\" data-columns=\"{}\" "
      "data-values=\"{}\" data-unit=\"{}\"></div>\n<div class=\"columns\">{}</div>\n{}</figure>\n",
      map.wide ? " wide" : "", width, size, map.caption, labels_of(map.row_labels, "top"),
      png_address(map.columns, map.rows, pixels, palette()), html_escape(map.alt), row * map.rows,
      names_of(map.row_names), names_of(map.column_names), values_of(map), html_escape(map.unit),
      labels_of(map.column_labels, "left"),
      map.note.empty() ? "" : "<p class=\"note\">" + map.note + "</p>\n");
}

std::string map_legend(const std::string& low, const std::string& even, const std::string& high) {
  return fmt::format(
      "<div class=\"legend\"><i class=\"scale\"></i><span>{}</span><span>{}</span><span>{}</span>"
      "</div>\n",
      low, even, high);
}

std::vector<MapLabel> even_labels(const std::vector<std::string>& names, size_t most) {
  size_t step = 1;
  for (const size_t next : {2, 4, 8, 16, 32, 64, 128}) {
    if ((names.size() + step - 1) / step > most) step = next;
  }
  std::vector<MapLabel> out;
  for (size_t i = 0; i < names.size(); i += step) {
    const double place = (static_cast<double>(i) + 0.5) / static_cast<double>(names.size());
    out.push_back({place, names[i]});
  }
  return out;
}

std::vector<std::string> expert_names(int64_t experts) {
  std::vector<std::string> names;
  for (int64_t e = 0; e < experts; ++e) names.push_back(std::to_string(e));
  return names;
}

}  // namespace pyramoe::report
