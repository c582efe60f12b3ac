#include "report/chart.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "report/picture.h"

namespace pyramoe::report {

void Range::add(double x) {
  if (!std::isfinite(x)) return;
  low = std::min(low, x);
  high = std::max(high, x);
}

Range Range::padded(double share) const {
  if (empty()) return {0, 1};
  const double room = std::max(share * (high - low), 1e-3 * std::max(1.0, std::fabs(high)));
  return {low - room, high + room};
}

void draw_axes(Svg& svg, const Axis& x, const Axis& y, const std::vector<Tick>& x_ticks,
               const std::vector<Tick>& y_ticks) {
  for (const Tick& tick : x_ticks) {
    const double at = x.at(tick.value);
    svg.line(at, y.begin(), at, y.end(), {kGrid});
    svg.text(at, y.begin() + 18, tick.label, {kTickSize, Anchor::middle});
  }
  for (const Tick& tick : y_ticks) {
    const double at = y.at(tick.value);
    svg.line(x.begin(), at, x.end(), at, {kGrid});
    svg.text(x.begin() - 8, at + 4, tick.label, {kTickSize, Anchor::end});
  }
  svg.line(x.begin(), y.begin(), x.end(), y.begin(), {kInk, 1.2});
}

std::vector<double> spread(const std::vector<double>& wanted, double gap, double low, double high) {
  const size_t n = wanted.size();
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return wanted[a] < wanted[b]; });
  // With i gaps taken off the i-th, "apart" becomes "not falling": neighbours that would fall share
  // the mean of their wishes, which is the nearest answer in squares.
  struct Block {
    double sum;
    double count;
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < n; ++i) {
    blocks.push_back({wanted[order[i]] - gap * static_cast<double>(i), 1});
    while (blocks.size() > 1) {
      const Block last = blocks.back();
      Block& before = blocks[blocks.size() - 2];
      if (before.sum / before.count <= last.sum / last.count) break;
      before = {before.sum + last.sum, before.count + last.count};
      blocks.pop_back();
    }
  }
  const double room = std::max(low, high - gap * static_cast<double>(n > 0 ? n - 1 : 0));
  std::vector<double> out(n);
  size_t i = 0;
  for (const Block& block : blocks) {
    const double at = std::clamp(block.sum / block.count, low, room);
    for (double k = 0; k < block.count; ++k, ++i) {
      out[order[i]] = at + gap * static_cast<double>(i);
    }
  }
  return out;
}

double text_width(const std::string& text, double size) {
  const auto letters =
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
  return 0.56 * size * static_cast<double>(letters);
}

}  // namespace pyramoe::report
