#include "lab/metric_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "report/table.h"

namespace pyramoe::lab {
namespace {

bool starts_with(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

constexpr double kMiB = 1024.0 * 1024.0;

// Field by field: title, axis, unit, decimals, suffix, counted, exact, from_zero.
struct NamedStyle {
  std::string metric;
  MetricStyle style;
};

const std::vector<NamedStyle>& named_styles() {
  static const std::vector<NamedStyle> kStyles = {
      {"loss", {"loss", "validation loss (nats per token)"}},
      {"perplexity", {"perplexity", "validation perplexity", 1, 2}},
      {"params_total", {"parameters", "total parameters", 1, 0, "", true, true, true}},
      {"params_active",
       {"active parameters", "parameters active per token", 1, 0, "", true, true, true}},
      {"params_expert",
       {"parameters in experts", "parameters in experts", 1, 0, "", true, true, true}},
      {"flops_per_token",
       {"FLOPs per token", "training FLOPs per token", 1, 0, "", true, true, true}},
      {"tokens", {"tokens", "training tokens", 1, 0, "", true, true, true}},
      {"seconds", {"seconds", "training time (s)", 1, 0, " s", false, false, true}},
      {"tokens_per_s", {"tokens/s", "training tokens per second", 1, 0, "", false, false, true}},
      {"dropped", {"dropped", "dropped choices (%)", 0.01, 1, " %", false, false, true}},
      {"imbalance", {"busiest expert / mean", "busiest expert / mean", 1, 2}},
      {"bench.tokens_per_s",
       {"tokens/s alone", "training tokens per second, alone", 1, 0, "", false, false, true}},
      {"bench.step_ms",
       {"step alone", "time of a step, alone (ms)", 1, 1, " ms", false, false, true}},
      {"bench.peak_bytes",
       {"peak memory", "peak memory (MiB)", kMiB, 1, " MiB", false, true, true}},
      {"experts_live", {"live experts", "live experts", 1, 1, "", false, false, true}},
      {"distill_share", {"share with KD", "share of the run with KD", 1, 2}},
      {"expert_bits", {"bits per weight", "bits per expert weight", 1, 0, "", false, true, true}},
      {"expert_bytes",
       {"bytes of experts", "bytes of experts (MiB)", kMiB, 2, " MiB", false, true, true}},
      {"total_bytes",
       {"bytes of all weights", "bytes of all weights (MiB)", kMiB, 2, " MiB", false, true, true}}};
  return kStyles;
}

std::string fixed(double x, int decimals) {
  if (std::fabs(x) < 0.5 * std::pow(10, -decimals)) x = 0;  // no "-0.0000"
  std::string text = fmt::format("{:.{}f}", x, decimals);
  if (std::fabs(x) < 1e4) return text;
  size_t at = text.find('.');
  if (at == std::string::npos) at = text.size();
  const size_t first = text[0] == '-' ? 1 : 0;
  while (at > first + 3) text.insert(at -= 3, ",");
  return text;
}

}  // namespace

MetricStyle style_of(const std::string& metric) {
  for (const NamedStyle& named : named_styles()) {
    if (named.metric == metric) return named.style;
  }
  if (starts_with(metric, "loss@")) {
    const std::string percent = fmt::format("{:.3g} %", 100 * std::stod(metric.substr(5)));
    return {"loss at " + percent, "validation loss at " + percent + " of the tokens (nats)"};
  }
  if (starts_with(metric, "loss.")) {
    const std::string domain = metric.substr(5);
    return {"loss, " + domain, "validation loss on " + domain + " (nats per token)"};
  }
  if (starts_with(metric, "acc.")) {
    const std::string task = metric.substr(4);
    return {task, task + ", accuracy (%)", 0.01, 1, " %"};
  }
  if (starts_with(metric, "live.")) {
    const std::string layer = metric.substr(5);
    return {"experts of layer " + layer,
            "live experts of layer " + layer,
            1,
            1,
            "",
            false,
            false,
            true};
  }
  if (ends_with(metric, "_bytes")) {
    return {metric, metric + " (MiB)", kMiB, 2, " MiB", false, false, true};
  }
  return {metric, metric};
}

std::string number_text(const MetricStyle& style, double x) {
  if (!std::isfinite(x)) return "–";
  if (style.counted) return report::short_count(x);
  return fixed(x / style.unit, style.decimals) + style.suffix;
}

std::string signed_text(const MetricStyle& style, double x) {
  if (!std::isfinite(x)) return x > 0 ? "infinite" : x < 0 ? "-infinite" : "–";
  if (style.counted) return fmt::format("{:+.4g}", x);
  const std::string text = fixed(x / style.unit, style.decimals) + style.suffix;
  return text[0] == '-' ? text : "+" + text;
}

std::string mean_text(const MetricStyle& style, const Interval& interval) {
  const bool plain = interval.n < 2 || (style.exact && interval.sd == 0);
  if (plain || !std::isfinite(interval.mean)) return number_text(style, interval.mean);
  if (style.counted) {
    return report::short_count(interval.mean) + " ± " + report::short_count(interval.half());
  }
  return fixed(interval.mean / style.unit, style.decimals) + " ± " +
         fixed(interval.half() / style.unit, style.decimals) + style.suffix;
}

}  // namespace pyramoe::lab
