// Text coloured by expert. The switch between layers is radio buttons and style alone: every token
// carries its colour and strength for each layer (--a0, --p0, --a1, …), and the chosen button says
// which of them counts.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/routing_parts.h"

namespace pyramoe::report {
namespace {

// Degrees on the colour circle, a golden angle apart: the first few experts lie far from each
// other.
int hue(int64_t expert) {
  return static_cast<int>(std::fmod(static_cast<double>(expert) * 137.508 + 210, 360.0));
}

// A token as people can see it: white space that would vanish gets a sign.
std::string shown(const std::string& text, bool in_list) {
  std::string out;
  for (const char c : html_escape(text)) {
    if (c == '\n') {
      out += in_list ? "↵" : "↵\n";
    } else if (c == ' ' && in_list) {
      out += "␣";
    } else {
      out += c;
    }
  }
  return out;
}

std::string token_html(const ReadToken& token, const Observation& seen) {
  if (token.layers.empty()) return "<hr>";  // between two places of a domain
  std::string style, title, experts;
  for (size_t l = 0; l < token.layers.size(); ++l) {
    const ReadToken::Choice& choice = token.layers[l];
    style += fmt::format("{}--a{}:{};--p{}:{:.2f}", l == 0 ? "" : ";", l, hue(choice.expert), l,
                         std::sqrt(choice.probability));
    title += fmt::format("{}block {}: expert {}, {:.0f} %", l == 0 ? "" : "\n",
                         seen.layers[l].block, choice.expert, 100 * choice.probability);
    experts += fmt::format("{}{}", l == 0 ? "" : " ", choice.expert);
  }
  return fmt::format("<i style=\"{}\" data-e=\"{}\" title=\"{}\">{}</i>", style, experts, title,
                     shown(token.text, false));
}

// The rules that make button `l` count.
std::string layer_style(size_t layers) {
  std::string out = "<style>\n";
  for (size_t l = 0; l < layers; ++l) {
    out += fmt::format(
        "#layer{0}:checked~.texts i{{--a:var(--a{0});--p:var(--p{0})}}"
        "#layer{0}:checked~.switch label[for=layer{0}]{{background:var(--ink);color:var(--paper)}}"
        "#layer{0}:focus-visible~.switch label[for=layer{0}]{{outline:2px solid var(--accent)}}"
        "#layer{0}:checked~.readers .of{0}{{display:grid}}\n",
        l);
  }
  return out + "</style>\n";
}

std::string buttons(const Observation& seen) {
  std::string inputs, labels;
  for (size_t l = 0; l < seen.layers.size(); ++l) {
    inputs += fmt::format("<input type=\"radio\" name=\"layer\" id=\"layer{}\"{}>\n", l,
                          l + 1 == seen.layers.size() ? " checked" : "");
    labels += fmt::format("<label for=\"layer{}\">block {}</label>", l, seen.layers[l].block);
  }
  return inputs + "<p class=\"switch\"><span>Coloured by</span>" + labels + "</p>\n";
}

// An expert's share of the tokens, its busiest domain and what it likes to read.
std::string reader(const Observation& seen, const LayerObservation& layer, size_t l, int64_t e) {
  const std::vector<int64_t> loads = layer.by_domain.column_sums();
  const double share = static_cast<double>(loads[static_cast<size_t>(e)]) /
                       static_cast<double>(layer.by_domain.total());
  int64_t best = 0;
  for (int64_t d = 1; d < layer.by_domain.rows; ++d) {
    if (layer.by_domain.at(d, e) > layer.by_domain.at(best, e)) best = d;
  }
  std::string likes;
  for (const Favourite& f : layer.favourites[static_cast<size_t>(e)]) {
    likes +=
        fmt::format("<code title=\"read {} times here, {:.1f} × as often as elsewhere\">{}</code> ",
                    f.count, f.times, shown(f.text, true));
  }
  if (share == 0) likes = "<span class=\"none\">no token of this text</span>";
  const std::string where =
      share > 0 && seen.domains.size() > 1
          ? ", most from " + html_escape(seen.domains[static_cast<size_t>(best)])
          : "";
  return fmt::format(
      "<div class=\"reader\" data-layer=\"{}\" data-expert=\"{}\" style=\"--a:{}\"><b>{}</b>"
      "<small>{:.1f} % of choices{}</small><p>{}</p></div>\n",
      l, e, hue(e), e, 100 * share, where, likes);
}

}  // namespace

std::string draw_texts(const Observation& seen) {
  std::string out = layer_style(seen.layers.size()) + buttons(seen);
  out +=
      "<p class=\"note\">The experts of the chosen block and the tokens each reads more often "
      "than the others do. Point at a token to see its experts; choose an expert to see only its "
      "tokens.";
  const bool several = !seen.layers.empty() && seen.layers[0].together.rows > 0;
  if (several) out += " Colours and lists are of a token's first choice.";
  out += "</p>\n<div class=\"readers\">\n";
  for (size_t l = 0; l < seen.layers.size(); ++l) {
    out += fmt::format("<div class=\"of{} list\">\n", l);
    for (int64_t e = 0; e < seen.layers[l].experts; ++e) {
      out += reader(seen, seen.layers[l], l, e);
    }
    out += "</div>\n";
  }
  out += "</div>\n<div class=\"texts\">\n";
  for (const SampleText& sample : seen.samples) {
    if (sample.tokens.empty()) continue;
    out += "<article><h3>" + html_escape(sample.domain) + "</h3>\n<div class=\"text\">";
    for (const ReadToken& token : sample.tokens) out += token_html(token, seen);
    out += "</div></article>\n";
  }
  return out + "</div>\n";
}

}  // namespace pyramoe::report
