// See eval_report.h. Keys are lm-eval's, so that scripts made for it read ours.
#include "infer/eval_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>

#include "core/config.h"

#ifndef PYRAMOE_GIT_HASH
#define PYRAMOE_GIT_HASH ""
#endif

namespace pyramoe::infer {
namespace {

constexpr size_t kColumns = 9;
using Line = std::array<std::string, kColumns>;

std::string iso_date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

// Columns on a screen: arrows and ± are one each.
size_t width(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0u) != 0x80u; }));
}

std::string number(double value) {
  return std::isnan(value) ? "N/A" : fmt::format("{:.4f}", value);
}

std::string metric_key(const TaskResult& result, const char* name, const char* suffix = "") {
  return cat(name, suffix, ",", result.task->filter);
}

Json number_or_na(double value) { return std::isnan(value) ? Json("N/A") : Json(value); }

}  // namespace

std::string results_table(const std::vector<TaskResult>& results) {
  std::vector<Line> lines = {
      {"Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"}};
  constexpr std::array<bool, kColumns> right = {false, true, false, true, false,
                                                false, true, false, true};
  for (const TaskResult& result : results) {
    for (size_t i = 0; i < result.metrics.size(); ++i) {
      const MetricValue& metric = result.metrics[i];
      const bool first = i == 0;
      lines.push_back({first ? result.task->name : "",
                       first ? fmt::format("{:g}", result.task->version) : "",
                       first ? result.task->filter : "", first ? "0" : "", to_string(metric.metric),
                       higher_is_better(metric.metric) ? "↑" : "↓", number(metric.value), "±",
                       number(metric.stderr_)});
    }
  }
  std::array<size_t, kColumns> widths;
  widths.fill(3);
  for (const Line& line : lines) {
    for (size_t c = 0; c < kColumns; ++c) widths[c] = std::max(widths[c], width(line[c]));
  }
  std::string text;
  for (size_t row = 0; row < lines.size(); ++row) {
    for (size_t c = 0; c < kColumns; ++c) {
      const std::string blanks(widths[c] - width(lines[row][c]), ' ');
      text += "|" + (right[c] ? blanks + lines[row][c] : lines[row][c] + blanks);
    }
    text += "|\n";
    if (row > 0) continue;
    for (size_t c = 0; c < kColumns; ++c) {
      text += "|" + std::string(widths[c] - (right[c] ? 1 : 0), '-') + (right[c] ? ":" : "");
    }
    text += "|\n";
  }
  return text;
}

Json results_json(const std::vector<TaskResult>& results, const LoadedRun& run,
                  const EvalOptions& options) {
  Json out;
  for (const char* key :
       {"results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"}) {
    out[key] = Json::object();
  }
  for (const TaskResult& result : results) {
    const Task& task = *result.task;
    Json values{{"alias", task.name}};
    Json metrics = Json::array(), better = Json::object();
    for (const MetricValue& metric : result.metrics) {
      const char* name = to_string(metric.metric);
      values[metric_key(result, name)] = number_or_na(metric.value);
      values[metric_key(result, name, "_stderr")] = number_or_na(metric.stderr_);
      metrics.push_back({{"metric", name}, {"higher_is_better", higher_is_better(metric.metric)}});
      better[name] = higher_is_better(metric.metric);
    }
    if (result.cut > 0) values["truncated_continuations"] = result.cut;
    values["seconds"] = result.seconds;
    out["results"][task.name] = values;
    out["configs"][task.name] = {
        {"task", task.name},          {"output_type", to_string(task.request)},
        {"doc_to_text", task.prompt}, {"doc_to_target", task.target},
        {"until", task.until},        {"num_fewshot", 0},
        {"metric_list", metrics},     {"files", task.files},
        {"version", task.version}};
    out["versions"][task.name] = task.version;
    out["n-shot"][task.name] = 0;
    out["higher_is_better"][task.name] = better;
    out["n-samples"][task.name] = {{"original", result.available}, {"effective", result.questions}};
  }
  out["config"] = {{"model", "pyramoe"},
                   {"run", run.folder},
                   {"checkpoint", run.checkpoint},
                   {"step", run.step},
                   {"dtype", to_string(run.dtype)},
                   {"device", to_string(run.device)},
                   {"batch_size", options.batch_size},
                   {"limit", options.limit > 0 ? Json(options.limit) : Json()},
                   {"model_config", to_toml(run.config)}};
  out["protocol"] = kProtocol;
  out["git_hash"] = PYRAMOE_GIT_HASH;
  out["date"] = iso_date();
  return out;
}

std::string samples_jsonl(const TaskResult& result) {
  std::string text;
  for (size_t i = 0; i < result.samples.size(); ++i) {
    const EvalSample& sample = result.samples[i];
    Json line{{"doc_id", i}, {"context", sample.question->context}};
    if (result.task->request == Request::generate_until) {
      line["target"] = sample.question->answers;
      line["resps"] = sample.answer;
    } else {
      line["target"] = sample.question->gold;
      Json scores = Json::array();
      for (size_t j = 0; j < sample.scores.size(); ++j) {
        scores.push_back({{"continuation", sample.question->continuations[j]},
                          {"log_likelihood", sample.scores[j].log_likelihood},
                          {"is_greedy", sample.scores[j].greedy},
                          {"tokens", sample.scores[j].tokens}});
      }
      line["resps"] = scores;
    }
    for (size_t m = 0; m < sample.per_metric.size(); ++m) {
      line[to_string(result.metrics[m].metric)] = sample.per_metric[m];
    }
    text += dump_json(line) + "\n";
  }
  return text;
}

}  // namespace pyramoe::infer
