#include "lab/experiment_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "lab/metric_text.h"
#include "lab/plan.h"
#include "report/table.h"
#include "train/progress.h"

namespace pyramoe::lab {
namespace {

// A cell or a line of Markdown: no bars that end cells, no line breaks.
std::string one_line(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

std::string row(const std::vector<std::string>& cells) {
  std::string out = "|";
  for (const std::string& cell : cells) out += " " + one_line(cell) + " |";
  return out + "\n";
}

// A header row and its rule: the first column is words, the others are numbers.
std::string header(const std::vector<std::string>& titles, bool numbers) {
  std::string rule = "|";
  for (size_t i = 0; i < titles.size(); ++i) rule += i > 0 && numbers ? "---:|" : "---|";
  return row(titles) + rule + "\n";
}

std::string fill(const Experiment& e, const std::string& scale, const std::string& text) {
  const auto found = e.scales.find(scale);
  if (found == e.scales.end()) return text;
  return fill_words(text, found->second, e.definition.folder + "/experiment.toml");
}

std::vector<const RunResult*> runs_at(const Experiment& e, const std::string& scale) {
  std::vector<const RunResult*> out;
  const std::vector<const Arm*> arms = shown_arms(e, scale);
  for (const RunResult& run : e.results.runs) {
    const auto is_it = [&](const Arm* arm) { return arm->name == run.arm; };
    if (run.scale == scale && std::any_of(arms.begin(), arms.end(), is_it)) out.push_back(&run);
  }
  return out;
}

std::string arm_table(const Experiment& e, const std::string& scale) {
  std::vector<std::string> titles = {"", "n"};
  for (const std::string& column : e.definition.columns) titles.push_back(style_of(column).title);
  std::string out = header(titles, true);
  bool several = false;
  for (const Arm* arm : shown_arms(e, scale)) {
    const auto n = std::count_if(
        e.results.runs.begin(), e.results.runs.end(),
        [&](const RunResult& run) { return run.scale == scale && run.arm == arm->name; });
    several |= n > 1;
    std::vector<std::string> cells = {label_of(e, scale, arm->name), std::to_string(n)};
    for (const std::string& column : e.definition.columns) {
      cells.push_back(
          mean_text(style_of(column), interval_of_arm(e.results, scale, arm->name, column)));
    }
    out += row(cells);
  }
  if (several) {
    out +=
        "\nMean ± half of its 95 % interval over n seeds. Claims compare arms seed by seed, "
        "which is sharper than two such intervals.\n";
  }
  return out;
}

std::string claim_list(const Experiment& e, const std::string& scale) {
  std::string out;
  for (const JudgedClaim& judged : judge_all(e, scale)) {
    out += fmt::format("- **{}**: {}.<br>{}.\n", outcome_text(judged.verdict),
                       one_line(judged.text), one_line(judged.numbers));
  }
  return out;
}

// "1.2 M", or "1.2 M to 13 M" where runs differ; "" where none has it.
std::string span_text(const std::vector<const RunResult*>& runs, const std::string& metric) {
  double low = INFINITY, high = -INFINITY;
  for (const RunResult* run : runs) {
    const double x = metric_of(*run, metric);
    if (!std::isfinite(x)) continue;
    low = std::min(low, x);
    high = std::max(high, x);
  }
  if (low > high) return "";
  const std::string from = report::short_count(low), to = report::short_count(high);
  return from == to ? from : from + " to " + to;
}

std::string joined(const std::set<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

// What was run, and what it took.
std::string cost_line(const Experiment& e, const std::string& scale) {
  const std::vector<const RunResult*> runs = runs_at(e, scale);
  std::set<int64_t> seeds;
  std::set<std::string> commits, devices;
  double seconds = 0;
  for (const RunResult* run : runs) {
    seeds.insert(run->seed);
    commits.insert(run->commit);
    devices.insert(run->device);
    const double x = metric_of(*run, "seconds");
    if (std::isfinite(x)) seconds += x;
  }
  std::string list;
  for (const int64_t seed : seeds) list += (list.empty() ? "" : ", ") + std::to_string(seed);
  std::string out = fmt::format("{} runs on {}, seeds {}", runs.size(), joined(devices), list);
  const std::string tokens = span_text(runs, "tokens"), size = span_text(runs, "params_total");
  if (!tokens.empty()) out += fmt::format("; {} tokens each", tokens);
  if (!size.empty()) out += fmt::format("; {} parameters", size);
  if (seconds > 0) out += fmt::format("; {} of training in all", train::duration(seconds));
  return out + fmt::format("; commit {}.\n", joined(commits));
}

std::string scale_section(const Experiment& e, const std::string& scale) {
  std::string out = fmt::format("## Scale: {}\n\n{}\n", scale, arm_table(e, scale));
  const std::string claims = claim_list(e, scale);
  if (!claims.empty()) out += claims + "\n";
  if (scale == "smoke") out += "At this size runs only show that everything works.\n\n";
  out += fmt::format("![{}, {}](figure_{}.svg)\n\n", one_line(e.definition.title), scale, scale);
  return out + cost_line(e, scale) + "\n";
}

std::string paper_section(const PaperFacts& paper) {
  if (paper.text.empty() && paper.rows.empty()) return "";
  std::string out = "## What the paper reports\n\n";
  if (!paper.text.empty()) out += one_line(paper.text) + "\n\n";
  if (paper.columns.empty()) return out;
  out += header(paper.columns, true);
  for (const std::vector<std::string>& cells : paper.rows) out += row(cells);
  return out + "\n";
}

std::string count_text(const std::vector<JudgedClaim>& claims) {
  if (claims.empty()) return "–";
  std::string out;
  for (const char* outcome : {"holds", "does not hold", "not decided", "not run"}) {
    const auto n = std::count_if(claims.begin(), claims.end(), [&](const JudgedClaim& judged) {
      return outcome_text(judged.verdict) == outcome;
    });
    if (n == 0) continue;
    std::string words = outcome;
    if (words == "holds" && n > 1) words = "hold";
    if (words == "does not hold") words = n > 1 ? "do not" : "does not";
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", n, words);
  }
  return out;
}

}  // namespace

std::vector<std::string> shown_scales(const Experiment& experiment) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const RunResult& run : experiment.results.runs) seen.insert(run.scale);
  for (const char* known : {"paper", "small", "cpu"}) {
    if (seen.erase(known) > 0) names.emplace_back(known);
  }
  const bool smoke = seen.erase("smoke") > 0;
  names.insert(names.end(), seen.begin(), seen.end());
  if (names.empty() && smoke) names.emplace_back("smoke");
  std::erase_if(names, [&](const std::string& s) { return shown_arms(experiment, s).empty(); });
  return names;
}

std::vector<const Arm*> shown_arms(const Experiment& experiment, const std::string& scale) {
  std::vector<const Arm*> arms;
  for (const Arm& arm : experiment.definition.arms) {
    const auto is_its = [&](const RunResult& run) {
      return run.scale == scale && run.arm == arm.name;
    };
    const std::vector<RunResult>& runs = experiment.results.runs;
    if (std::any_of(runs.begin(), runs.end(), is_its)) arms.push_back(&arm);
  }
  return arms;
}

std::string label_of(const Experiment& experiment, const std::string& scale,
                     const std::string& name) {
  for (const Arm& arm : experiment.definition.arms) {
    if (arm.name == name) return arm.label.empty() ? name : fill(experiment, scale, arm.label);
  }
  return name;
}

std::vector<JudgedClaim> judge_all(const Experiment& experiment, const std::string& scale) {
  std::vector<JudgedClaim> out;
  for (const Claim& claim : experiment.definition.claims) {
    if (!is_judged(claim, scale)) continue;
    Verdict verdict = judge(claim, experiment.results, scale);
    std::string numbers = verdict_text(claim, verdict, label_of(experiment, scale, claim.left),
                                       label_of(experiment, scale, claim.right));
    out.push_back(
        {&claim, fill(experiment, scale, claim.text), std::move(verdict), std::move(numbers)});
  }
  return out;
}

std::string results_markdown(const Experiment& experiment) {
  const Definition& d = experiment.definition;
  std::string out = fmt::format("# {}\n\n**{}**\n\n", one_line(d.title), one_line(d.question));
  if (!d.source.empty()) out += fmt::format("Source: {}. ", one_line(d.source));
  out += "What is compared, why, and what to learn from it: [README.md](README.md).\n\n";
  const std::vector<std::string> scales = shown_scales(experiment);
  if (scales.empty()) out += "No run has finished yet.\n\n";
  for (const std::string& scale : scales) out += scale_section(experiment, scale);
  out += paper_section(d.paper);
  return out + fmt::format(
                   "---\nMade from results.json by `pyramoe report experiments/{}`. Each "
                   "claim is judged by itself, at 95 %: [docs/report.md]"
                   "(../../docs/report.md).\n",
                   d.name);
}

std::string summary_markdown(const std::vector<Experiment>& experiments,
                             const std::string& folder) {
  std::vector<std::string> scales;
  for (const char* scale : {"paper", "small", "cpu"}) {
    const auto has = [&](const Experiment& e) { return !shown_arms(e, scale).empty(); };
    if (std::any_of(experiments.begin(), experiments.end(), has)) scales.emplace_back(scale);
  }
  std::vector<std::string> titles = {"experiment", "question"};
  for (const std::string& scale : scales) titles.push_back("claims at " + scale);
  std::string out = header(titles, false);
  for (const Experiment& e : experiments) {
    const std::string page = shown_scales(e).empty() ? "" : "/results.md";
    std::vector<std::string> cells = {
        fmt::format("[{}]({}/{}{})", e.definition.title, folder, e.definition.name, page),
        e.definition.question};
    for (const std::string& scale : scales) {
      cells.push_back(shown_arms(e, scale).empty() ? "" : count_text(judge_all(e, scale)));
    }
    out += row(cells);
  }
  return out;
}

}  // namespace pyramoe::lab
