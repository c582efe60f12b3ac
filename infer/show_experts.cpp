// See show_experts.h.
#include "infer/show_experts.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "data/utf8.h"
#include "moe/layer_plan.h"

namespace pyramoe::infer {
namespace {

// Dark letters on light colours, light ones on dark.
int ink(int colour) {
  const int cube = colour - 16;
  const int brightness = 3 * (cube / 36) + 6 * (cube / 6 % 6) + cube % 6;
  return brightness > 22 ? 16 : 231;
}

std::string painted(const std::string& text, int32_t expert) {
  const int colour = expert_colour(expert);
  return fmt::format("\x1b[48;5;{}m\x1b[38;5;{}m{}\x1b[0m", colour, ink(colour), text);
}

// A line's end inside a colour would paint the rest of the line: it is set outside.
std::string painted_lines(const std::string& text, int32_t expert) {
  std::string out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) out += painted(text.substr(begin, end - begin), expert);
    if (end < text.size()) out += '\n';
    begin = end + 1;
  }
  return out;
}

std::string names(const std::vector<int32_t>& experts) {
  std::string text;
  for (const int32_t expert : experts) text += (text.empty() ? "" : "+") + std::to_string(expert);
  return text.empty() ? "?" : text;
}

}  // namespace

int64_t expert_layer(const moe::ModelConfig& config, int64_t asked) {
  const std::vector<moe::LayerPlan> plan = moe::layer_plan(config);
  std::string with_experts;
  int64_t last = -1;
  for (size_t i = 0; i < plan.size(); ++i) {
    if (plan[i].experts == 0) continue;
    last = static_cast<int64_t>(i);
    if (last == asked) return asked;
    with_experts += (with_experts.empty() ? "" : ", ") + std::to_string(i);
  }
  if (last < 0) fail(Exit::config, "--show-experts: this model is dense, no block has experts");
  if (asked < 0) return last;
  fail(Exit::config, "--show-experts: block ", asked, " has no experts; these do: ", with_experts);
}

int expert_colour(int32_t expert) {
  // Hues a golden angle apart, so that the first few experts lie far from each other; every second
  // round is paler.
  const double turn = std::fmod(static_cast<double>(expert) * 0.61803398875, 1.0) * 6.0;
  const int pale = expert / 12 % 2 == 0 ? 0 : 2;
  const auto channel = [&](double shift) {
    const double distance = std::fabs(std::fmod(turn + shift, 6.0) - 3.0);  // 0 … 3
    const double level = std::clamp(distance - 1.0, 0.0, 1.0);
    return pale + static_cast<int>(std::lround(level * (5 - pale)));
  };
  return 16 + 36 * channel(0) + 6 * channel(4) + channel(2);
}

std::string text_with_experts(const Generated& text, const data::Tokenizer& tokenizer,
                              bool colour) {
  Tokens all = text.prompt;
  all.insert(all.end(), text.tokens.begin(), text.tokens.end());
  std::string out, held;
  std::vector<int32_t> of_held;
  for (size_t i = 0; i < all.size(); ++i) {
    const std::vector<int32_t> experts =
        i < text.experts.size() ? text.experts[i] : std::vector<int32_t>{};
    if (held.empty()) of_held = experts;
    held += tokenizer.token(all[i]);
    if (i + 1 < all.size() && data::complete_prefix(held) < held.size()) continue;
    if (colour && !of_held.empty()) {
      out += painted_lines(held, of_held[0]);
    } else {
      out += held + "[" + names(of_held) + "]";
    }
    held.clear();
  }
  return out;
}

std::string expert_legend(const std::vector<Generated>& texts, int64_t layer, int64_t experts,
                          bool colour) {
  std::vector<int64_t> count(static_cast<size_t>(experts), 0);
  int64_t total = 0;
  for (const Generated& text : texts) {
    for (const std::vector<int32_t>& chosen : text.experts) {
      for (const int32_t expert : chosen) {
        ++count.at(static_cast<size_t>(expert));
        ++total;
      }
    }
  }
  std::string out = fmt::format("block {}, {} experts, share of choices:", layer, experts);
  for (size_t e = 0; e < count.size(); ++e) {
    if (count[e] == 0) continue;
    const std::string name = fmt::format(" {} ", e);
    out += " " + (colour ? painted(name, static_cast<int32_t>(e)) : "[" + std::to_string(e) + "]");
    out +=
        fmt::format(" {:.0f}%", 100.0 * static_cast<double>(count[e]) / static_cast<double>(total));
  }
  return out;
}

bool may_colour(int file_descriptor) {
  const char* off = std::getenv("NO_COLOR");
  return (off == nullptr || *off == '\0') && isatty(file_descriptor) == 1;
}

}  // namespace pyramoe::infer
