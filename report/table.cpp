#include "report/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "core/text.h"
#include "train/progress.h"

namespace pyramoe::report {
namespace {

constexpr const char* kNothing = "–";
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

using Value = std::function<double(const RunReport&)>;
using Format = std::function<std::string(double)>;

TableRow row(const std::vector<RunReport>& runs, std::string title, const Value& value,
             const Format& format, bool lowest_is_best = false) {
  TableRow out{std::move(title), {}, -1};
  double best = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < runs.size(); ++i) {
    const double x = value(runs[i]);
    out.cells.push_back(std::isfinite(x) ? format(x) : kNothing);
    if (lowest_is_best && runs.size() > 1 && x < best) {
      best = x;
      out.best = static_cast<int64_t>(i);
    }
  }
  return out;
}

std::string as_loss(double x) { return fmt::format("{:.4f}", x); }
std::string as_ratio(double x) { return fmt::format("{:.2f}", x); }
std::string as_percent(double x) { return fmt::format("{:.1f} %", 100 * x); }
std::string as_count(double x) { return train::with_commas(std::llround(x)); }

// Terminal columns of UTF-8 text: bytes that do not continue a character.
int64_t columns(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

std::string padded(const std::string& text, int64_t width, bool right) {
  const std::string space(static_cast<size_t>(std::max<int64_t>(0, width - columns(text))), ' ');
  return right ? space + text : text + space;
}

std::string bar_safe(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2)
    text.insert(at, "\\");
  return text;
}

Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

}  // namespace

std::string short_count(double n) {
  for (const char* unit : {"", " K", " M", " B"}) {
    if (n < 999.5) return fmt::format("{:.3g}{}", n, unit);
    n /= 1000;
  }
  return fmt::format("{:.3g} T", n);
}

std::vector<std::string> domain_names(const std::vector<RunReport>& runs) {
  std::vector<std::string> names;
  for (const RunReport& run : runs) {
    for (const DomainLoss& domain : run.domains) {
      if (std::find(names.begin(), names.end(), domain.name) == names.end()) {
        names.push_back(domain.name);
      }
    }
  }
  return names;
}

const DomainLoss* find_domain(const RunReport& run, const std::string& name) {
  for (const DomainLoss& domain : run.domains) {
    if (domain.name == name) return &domain;
  }
  return nullptr;
}

std::vector<TableRow> make_table(const std::vector<RunReport>& runs) {
  std::vector<TableRow> table;
  const auto add = [&](const char* title, const Value& value, const Format& format) {
    table.push_back(row(runs, title, value, format));
  };
  table.push_back(row(
      runs, "validation loss", [](const RunReport& r) { return r.loss; }, as_loss, true));
  const std::vector<std::string> names = domain_names(runs);
  for (const std::string& name : names) {
    if (names.size() < 2) break;  // the one domain is the whole
    const auto loss = [&](const RunReport& r) {
      const DomainLoss* domain = find_domain(r, name);
      return domain ? domain->loss : kNone;
    };
    table.push_back(row(runs, "  " + printable(name, 40), loss, as_loss, true));
  }
  add(
      "perplexity", [](const RunReport& r) { return std::exp(r.loss); }, as_ratio);
  const auto cost = [&](const char* title, int64_t moe::ModelCost::*member) {
    add(
        title, [=](const RunReport& r) { return static_cast<double>(r.cost.*member); }, as_count);
  };
  cost("parameters", &moe::ModelCost::params_total);
  cost("  active per token", &moe::ModelCost::params_active);
  cost("  in experts", &moe::ModelCost::params_expert);
  cost("FLOPs per token", &moe::ModelCost::flops_per_token);
  add(
      "training tokens", [](const RunReport& r) { return static_cast<double>(r.tokens); },
      as_count);
  add(
      "training time", [](const RunReport& r) { return r.seconds; }, train::duration);
  add(
      "tokens/s (median)", [](const RunReport& r) { return r.tokens_per_s; }, as_count);
  add(
      "dropped choices", [](const RunReport& r) { return r.dropped; }, as_percent);
  add(
      "busiest expert / mean", [](const RunReport& r) { return r.imbalance; }, as_ratio);
  return table;
}

std::string to_text(const std::vector<RunReport>& runs, const std::vector<TableRow>& table) {
  int64_t first = 0;
  for (const TableRow& r : table) first = std::max(first, columns(r.title));
  std::vector<int64_t> width;
  for (size_t i = 0; i < runs.size(); ++i) {
    int64_t most = columns(printable(runs[i].name, 40));
    for (const TableRow& r : table) most = std::max(most, columns(r.cells[i]));
    width.push_back(most + 2);
  }
  std::string out = padded("", first, false);
  for (size_t i = 0; i < runs.size(); ++i) {
    out += padded(printable(runs[i].name, 40), width[i], true) + " ";
  }
  out.pop_back();
  out += "\n";
  for (const TableRow& r : table) {
    std::string line = padded(r.title, first, false);
    for (size_t i = 0; i < runs.size(); ++i) {
      line += padded(r.cells[i], width[i], true) + (r.best == static_cast<int64_t>(i) ? "*" : " ");
    }
    while (line.back() == ' ') line.pop_back();
    out += line + "\n";
  }
  if (runs.size() > 1) out += "* lowest of the row; losses in nats per token\n";
  return out;
}

std::string to_markdown(const std::vector<RunReport>& runs, const std::vector<TableRow>& table) {
  std::string out = "| |", rule = "|---|";
  for (const RunReport& run : runs) {
    out += fmt::format(" {} |", bar_safe(printable(run.name, 40)));
    rule += "---:|";
  }
  out += "\n" + rule + "\n";
  for (const TableRow& r : table) {
    const bool part = r.title.rfind("  ", 0) == 0;
    out += fmt::format("| {}{} |", part ? "– " : "", bar_safe(part ? r.title.substr(2) : r.title));
    for (size_t i = 0; i < runs.size(); ++i) {
      const bool best = r.best == static_cast<int64_t>(i);
      out += best ? " **" + r.cells[i] + "** |" : " " + r.cells[i] + " |";
    }
    out += "\n";
  }
  return out;
}

Json to_json(const std::vector<RunReport>& runs) {
  Json out;
  out["runs"] = Json::array();
  for (const RunReport& run : runs) {
    Json one;
    one["name"] = run.name;
    one["folder"] = run.folder;
    one["step"] = run.step;
    one["tokens"] = run.tokens;
    one["loss"] = number(run.loss);
    one["perplexity"] = number(std::exp(run.loss));
    one["domains"] = Json::object();
    for (const DomainLoss& domain : run.domains) {
      one["domains"][domain.name] = {{"loss", number(domain.loss)}, {"tokens", domain.tokens}};
    }
    one["params_total"] = run.cost.params_total;
    one["params_active"] = run.cost.params_active;
    one["params_expert"] = run.cost.params_expert;
    one["flops_per_token"] = run.cost.flops_per_token;
    one["seconds"] = run.seconds;
    one["tokens_per_s"] = number(run.tokens_per_s);
    one["dropped"] = number(run.dropped);
    one["imbalance"] = number(run.imbalance);
    out["runs"].push_back(std::move(one));
  }
  return out;
}

}  // namespace pyramoe::report
