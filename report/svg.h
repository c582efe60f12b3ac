// A small writer of SVG: lines, boxes, texts, markers. Coordinates are pixels from the upper left.
// The same calls give the same bytes, on any machine.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pyramoe::report {

using Points = std::vector<std::pair<double, double>>;

struct Stroke {
  std::string colour = "#222222";
  double width = 1;
  std::string dash = "";  // as in SVG: "6 3"
  double opacity = 1;
};

enum class Anchor { start, middle, end };

struct TextStyle {
  double size = 13;
  Anchor anchor = Anchor::start;
  bool bold = false;
  std::string colour = "#222222";
  double rotate = 0;  // degrees, around the text's own place
  bool halo = false;  // a white edge, to be read over lines
};

enum class Marker { circle, square, triangle, diamond };

class Svg {
 public:
  Svg(double width, double height);

  void line(double x1, double y1, double x2, double y2, const Stroke& stroke);
  void path(const Points& points, const Stroke& stroke);
  void box(double x, double y, double width, double height, const std::string& fill);
  void frame(double x, double y, double width, double height, const Stroke& stroke);
  // `y` is the baseline.
  void text(double x, double y, std::string_view text, const TextStyle& style = {});
  void marker(Marker kind, double x, double y, double size, const std::string& colour);
  // What is drawn until end_clip() is cut at the box.
  void begin_clip(double x, double y, double width, double height);
  void end_clip();
  // What a mouse over the things drawn until end_tip() shows.
  void begin_tip(std::string_view text);
  void end_tip();

  std::string finish() const;

 private:
  std::string body_;
  double width_, height_;
  int clips_ = 0;
};

// Text with <, >, &, quotes and control bytes made harmless; bytes that are not UTF-8 too.
std::string xml_escape(std::string_view text);
// At most two decimals, without trailing zeros.
std::string coordinate(double value);

}  // namespace pyramoe::report
