#include "report/svg.h"

#include <fmt/format.h>

#include <cmath>

#include "core/text.h"

namespace pyramoe::report {
namespace {

std::string attributes(const Stroke& stroke) {
  std::string out =
      fmt::format("stroke=\"{}\" stroke-width=\"{}\"", stroke.colour, coordinate(stroke.width));
  if (!stroke.dash.empty()) out += fmt::format(" stroke-dasharray=\"{}\"", stroke.dash);
  if (stroke.opacity < 1) out += fmt::format(" stroke-opacity=\"{}\"", coordinate(stroke.opacity));
  return out;
}

std::string joined(const Points& points) {
  std::string out;
  for (const auto& [x, y] : points) {
    out += fmt::format("{}{},{}", out.empty() ? "" : " ", coordinate(x), coordinate(y));
  }
  return out;
}

}  // namespace

std::string coordinate(double value) {
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string xml_escape(std::string_view text) {
  std::string out;
  for (const char c : printable(text, 4096)) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Svg::Svg(double width, double height) : width_(width), height_(height) {}

void Svg::line(double x1, double y1, double x2, double y2, const Stroke& stroke) {
  body_ += fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" {}/>\n", coordinate(x1),
                       coordinate(y1), coordinate(x2), coordinate(y2), attributes(stroke));
}

void Svg::path(const Points& points, const Stroke& stroke) {
  if (points.size() < 2) return;
  body_ += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke-linejoin=\"round\" {}/>\n",
                       joined(points), attributes(stroke));
}

void Svg::box(double x, double y, double width, double height, const std::string& fill) {
  body_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>\n",
                       coordinate(x), coordinate(y), coordinate(width), coordinate(height), fill);
}

void Svg::frame(double x, double y, double width, double height, const Stroke& stroke) {
  body_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" {}/>\n",
                       coordinate(x), coordinate(y), coordinate(width), coordinate(height),
                       attributes(stroke));
}

void Svg::text(double x, double y, std::string_view text, const TextStyle& style) {
  body_ += fmt::format("<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{}\"", coordinate(x),
                       coordinate(y), coordinate(style.size), style.colour);
  if (style.anchor != Anchor::start) {
    body_ += fmt::format(" text-anchor=\"{}\"", style.anchor == Anchor::end ? "end" : "middle");
  }
  if (style.bold) body_ += " font-weight=\"bold\"";
  if (style.halo) {
    body_ +=
        " stroke=\"#ffffff\" stroke-width=\"4\" stroke-linejoin=\"round\" "
        "paint-order=\"stroke\"";
  }
  if (style.rotate != 0) {
    body_ += fmt::format(" transform=\"rotate({} {} {})\"", coordinate(style.rotate), coordinate(x),
                         coordinate(y));
  }
  body_ += fmt::format(">{}</text>\n", xml_escape(text));
}

void Svg::marker(Marker kind, double x, double y, double size, const std::string& colour) {
  const std::string paint =
      fmt::format("fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"1\"", colour);
  const double r = size / 2;
  if (kind == Marker::circle) {
    body_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" {}/>\n", coordinate(x),
                         coordinate(y), coordinate(r), paint);
    return;
  }
  Points points;
  if (kind == Marker::square) {
    const double h = 0.89 * r;  // equal area to the eye
    points = {{x - h, y - h}, {x + h, y - h}, {x + h, y + h}, {x - h, y + h}};
  } else if (kind == Marker::triangle) {
    points = {{x, y - 1.2 * r}, {x + 1.1 * r, y + 0.8 * r}, {x - 1.1 * r, y + 0.8 * r}};
  } else {
    points = {{x, y - 1.25 * r}, {x + 1.25 * r, y}, {x, y + 1.25 * r}, {x - 1.25 * r, y}};
  }
  body_ += fmt::format("<polygon points=\"{}\" {}/>\n", joined(points), paint);
}

void Svg::begin_clip(double x, double y, double width, double height) {
  ++clips_;
  body_ += fmt::format(
      "<clipPath id=\"clip{0}\"><rect x=\"{1}\" y=\"{2}\" width=\"{3}\" height=\"{4}\"/>"
      "</clipPath>\n<g clip-path=\"url(#clip{0})\">\n",
      clips_, coordinate(x), coordinate(y), coordinate(width), coordinate(height));
}

void Svg::end_clip() { body_ += "</g>\n"; }

void Svg::begin_tip(std::string_view text) {
  body_ += fmt::format("<g><title>{}</title>\n", xml_escape(text));
}

void Svg::end_tip() { body_ += "</g>\n"; }

std::string Svg::finish() const {
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
      "viewBox=\"0 0 {0} {1}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n{2}</svg>\n",
      coordinate(width_), coordinate(height_), body_);
}

}  // namespace pyramoe::report
