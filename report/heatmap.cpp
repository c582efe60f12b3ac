// The lower half of the picture: which experts the domains use.
//
// A cell is the share of a domain's choices that went to an expert, times the number of experts: 1
// is an even split, whatever the layer's width, so the layers of a pyramid compare.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/text.h"
#include "report/picture.h"

namespace pyramoe::report {
namespace {

constexpr double kRow = 24, kMostCell = 44, kLeastCell = 5, kBetween = 26;
constexpr double kHead = 46, kFoot = 20;  // title and block names above, expert numbers below
constexpr double kTopOfScale = 4;

// White to dark blue; darker is more, in colour and in grey.
std::string heat_colour(double relative) {
  struct Rgb {
    double r, g, b;
  };
  static constexpr std::array<Rgb, 5> kStops = {
      Rgb{255, 255, 255}, {198, 219, 239}, {107, 174, 214}, {33, 113, 181}, {8, 48, 107}};
  const double at = std::clamp(relative, 0.0, kTopOfScale);
  const auto low = std::min<size_t>(static_cast<size_t>(at), kStops.size() - 2);
  const double t = at - static_cast<double>(low);
  const auto mix = [&](double Rgb::*c) {
    return static_cast<int>(std::lround(kStops[low].*c * (1 - t) + kStops[low + 1].*c * t));
  };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(&Rgb::r), mix(&Rgb::g), mix(&Rgb::b));
}

std::vector<const DomainLoss*> rows_of(const RunReport& run) {
  std::vector<const DomainLoss*> rows;
  for (const DomainLoss& domain : run.domains) {
    if (!domain.load.empty()) rows.push_back(&domain);
  }
  return rows;
}

struct Panel {
  size_t layer;  // index into moe_layers
  double x, y;   // of its cells, from the heat map's corner
};

struct Layout {
  double label = 0, cell = 0, line_height = 0, height = 0;
  std::vector<Panel> panels;
};

int64_t experts_of(const RunReport& run, size_t layer) {
  return run.cost.layers[static_cast<size_t>(run.moe_layers[layer])].plan.experts;
}

// Layers side by side, in as many lines as it takes.
Layout lay_out(const RunReport& run, double width) {
  Layout out;
  const std::vector<const DomainLoss*> rows = rows_of(run);
  size_t longest = 0;
  for (const DomainLoss* row : rows) longest = std::max(longest, printable(row->name, 20).size());
  out.label = 14 + 7.2 * static_cast<double>(longest);
  int64_t sum = 0, widest = 1;
  for (size_t i = 0; i < run.moe_layers.size(); ++i) {
    sum += experts_of(run, i);
    widest = std::max(widest, experts_of(run, i));
  }
  const double room = width - out.label;
  const double gaps = kBetween * static_cast<double>(run.moe_layers.size() - 1);
  out.cell = std::clamp((room - gaps) / static_cast<double>(sum), kLeastCell, kMostCell);
  if (out.cell < 16) out.cell = std::min(16.0, room / static_cast<double>(widest));
  out.line_height = kRow * static_cast<double>(rows.size()) + kFoot + 26;
  double x = 0, y = kHead;
  for (size_t i = 0; i < run.moe_layers.size(); ++i) {
    const double panel = out.cell * static_cast<double>(experts_of(run, i));
    if (x > 0 && x + panel > room + 0.5) {
      x = 0;
      y += out.line_height;
    }
    out.panels.push_back({i, out.label + x, y});
    x += panel + kBetween;
  }
  out.height = y + out.line_height - 26;
  return out;
}

void draw_panel(Svg& svg, double x, double y, const RunReport& run, const Layout& layout,
                const Panel& panel) {
  const std::vector<const DomainLoss*> rows = rows_of(run);
  const int64_t experts = experts_of(run, panel.layer);
  svg.text(x, y - 8, fmt::format("block {}: {} experts", run.moe_layers[panel.layer], experts),
           {12, Anchor::start, false, kQuiet});
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<int64_t>& counts = rows[r]->load[panel.layer];
    const double total =
        std::accumulate(counts.begin(), counts.end(), 0.0,
                        [](double sum, int64_t n) { return sum + static_cast<double>(n); });
    const double top = y + kRow * static_cast<double>(r);
    for (int64_t e = 0; e < experts; ++e) {
      const double share =
          total > 0 ? static_cast<double>(counts[static_cast<size_t>(e)]) / total : 0;
      const double relative = share * static_cast<double>(experts);
      const double left = x + layout.cell * static_cast<double>(e);
      svg.begin_tip(fmt::format("{}, block {}, expert {}: {:.1f} % of the choices",
                                printable(rows[r]->name, 20), run.moe_layers[panel.layer], e,
                                100 * share));
      svg.box(left, top, layout.cell, kRow, heat_colour(relative));
      if (layout.cell >= 27) {
        svg.text(left + layout.cell / 2, top + kRow / 2 + 4, fmt::format("{:.1f}", relative),
                 {11, Anchor::middle, false, relative > 2.45 ? "#ffffff" : kInk});
      }
      svg.end_tip();
    }
  }
  svg.frame(x, y, layout.cell * static_cast<double>(experts),
            kRow * static_cast<double>(rows.size()), {"#999999", 1});
  const auto every = static_cast<int64_t>(std::ceil(18 / layout.cell));
  for (int64_t e = 0; e < experts; e += every) {
    svg.text(x + layout.cell * (static_cast<double>(e) + 0.5),
             y + kRow * static_cast<double>(rows.size()) + 15, std::to_string(e),
             {11, Anchor::middle, false, kQuiet});
  }
}

}  // namespace

bool has_load(const RunReport& run) { return !run.moe_layers.empty() && !rows_of(run).empty(); }

double heatmap_height(const RunReport& run, double width) { return lay_out(run, width).height; }

void draw_heatmap(Svg& svg, const Rect& place, const RunReport& run) {
  const Layout layout = lay_out(run, place.width);
  const std::vector<const DomainLoss*> rows = rows_of(run);
  svg.text(place.x, place.y + 12, "Expert load: " + printable(run.name, 40),
           {15, Anchor::start, true});
  double labelled = -1;
  for (const Panel& panel : layout.panels) {
    const double y = place.y + panel.y;
    draw_panel(svg, place.x + panel.x, y, run, layout, panel);
    if (panel.y == labelled) continue;
    labelled = panel.y;
    for (size_t r = 0; r < rows.size(); ++r) {
      svg.text(place.x + layout.label - 8, y + kRow * (static_cast<double>(r) + 0.5) + 4,
               printable(rows[r]->name, 20), {13, Anchor::end});
    }
  }
}

void draw_heat_scale(Svg& svg, double x, double y) {
  constexpr int kSteps = 40;
  const double width = 240;
  svg.text(x, y + 11, "share of a domain's tokens, times experts:", {12, Anchor::start});
  const double left = x + 270;
  for (int i = 0; i < kSteps; ++i) {
    svg.box(left + width * i / kSteps, y, width / kSteps + 0.5, 14,
            heat_colour(kTopOfScale * (i + 0.5) / kSteps));
  }
  svg.frame(left, y, width, 14, {"#999999", 1});
  const std::array<const char*, 5> names = {"0", "1 (even)", "2", "3", "4 or more"};
  for (size_t i = 0; i < names.size(); ++i) {
    svg.text(left + width * static_cast<double>(i) / 4, y + 28, names[i],
             {11, Anchor::middle, false, kQuiet});
  }
}

}  // namespace pyramoe::report
