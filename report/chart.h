// What charts share: the range of what is drawn, a frame of axes, and labels that keep apart.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "report/axis.h"
#include "report/svg.h"

namespace pyramoe::report {

inline constexpr double kTitleSize = 15, kLabelSize = 13, kTickSize = 12;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double x);                // NaN and infinity do not count
  Range padded(double share) const;  // room around; something sensible if there was nothing
  bool empty() const { return low > high; }
};

// Grid lines and labels at the ticks, a line below.
void draw_axes(Svg& svg, const Axis& x, const Axis& y, const std::vector<Tick>& x_ticks,
               const std::vector<Tick>& y_ticks);

// Places for labels that want to be at `wanted`: at least `gap` apart, in the same order, inside
// [low, high] where they fit, and moved as little as possible (in squares).
std::vector<double> spread(const std::vector<double>& wanted, double gap, double low, double high);

// About how wide a text is drawn: SVG leaves the font to the reader.
double text_width(const std::string& text, double size);

}  // namespace pyramoe::report
