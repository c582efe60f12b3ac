#include "lab/collect.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "core/file.h"
#include "core/json.h"
#include "lab/child.h"
#include "report/run.h"

namespace pyramoe::lab {
namespace {

constexpr size_t kTrainingPoints = 60;

// Means over equal stretches of steps, at the end of each.
Curve smoothed(const std::vector<report::LossPoint>& points) {
  Curve curve;
  const size_t count = std::min(kTrainingPoints, points.size());
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = i * points.size() / count, end = (i + 1) * points.size() / count;
    double sum = 0;
    size_t finite = 0;
    for (size_t j = begin; j < end; ++j) {
      if (!std::isfinite(points[j].loss)) continue;
      sum += points[j].loss;
      ++finite;
    }
    if (finite > 0) curve.emplace_back(points[end - 1].tokens, sum / static_cast<double>(finite));
  }
  return curve;
}

void add_model(const moe::ModelCost& cost, std::map<std::string, double>& metrics) {
  metrics["params_total"] = static_cast<double>(cost.params_total);
  metrics["params_active"] = static_cast<double>(cost.params_active);
  metrics["params_expert"] = static_cast<double>(cost.params_expert);
  metrics["flops_per_token"] = static_cast<double>(cost.flops_per_token);
}

// Numbers at the top of an object under their own names, except those that say how far a run was;
// the losses of domains as loss.DOMAIN.
void add_numbers(const Json& object, std::map<std::string, double>& metrics) {
  for (const auto& [key, value] : object.items()) {
    const bool place = key == "step" || key == "tokens" || key == "val_tokens" ||
                       key == "dropped" || key == "imbalance";
    if (value.is_number() && !place) metrics[key] = value.get<double>();
  }
  if (!object.contains("domains") || !object["domains"].is_object()) return;
  for (const auto& [name, part] : object["domains"].items()) {
    if (part.is_object() && part.contains("loss") && part["loss"].is_number()) {
      metrics["loss." + name] = part["loss"].get<double>();
    }
  }
}

Json read_object(const std::string& file) {
  const Json json = read_json(file);
  if (!json.is_object()) fail(Exit::data, file, ": expected one JSON object");
  return json;
}

RunResult result_of(const PlannedRun& run, const std::string& commit, const std::string& device) {
  RunResult out;
  out.arm = run.arm;
  out.scale = run.scale;
  out.seed = run.seed;
  out.config_hash = run.hash;
  out.commit = commit;
  out.device = device;
  return out;
}

// Experts that live in each layer at the end, where a run moves them (moe.budget).
void add_live(const std::string& folder, std::map<std::string, double>& metrics) {
  const std::string text = read_file(folder + "/metrics.jsonl");
  const size_t at = text.rfind("\"live\":");
  if (at == std::string::npos) return;
  const size_t begin = text.rfind('\n', at) + 1;
  const Json row = Json::parse(text.substr(begin, text.find('\n', at) - begin), nullptr, false);
  if (!row.is_object() || !row.contains("live") || !row["live"].is_array()) return;
  double total = 0;
  for (size_t i = 0; i < row["live"].size(); ++i) {
    if (!row["live"][i].is_number()) return;
    metrics[cat("live.", i)] = row["live"][i].get<double>();
    total += row["live"][i].get<double>();
  }
  metrics["experts_live"] = total;
}

}  // namespace

std::string program_commit() {
  const auto [known, commit] = output_of("git rev-parse --short=12 HEAD");
  if (known && !commit.empty()) {
    const std::string changed =
        output_of("git status --porcelain --untracked-files=no -- '*.h' '*.cpp' '*.cu' '*.cuh'")
            .second;
    return commit + (changed.empty() ? "" : "+");
  }
  const char* said = std::getenv("PYRAMOE_COMMIT");
  return said && *said ? said : "unknown";
}

std::string device_name(const std::string& device) {
  if (device == "cpu") return device;
  const std::string root = "/proc/driver/nvidia/gpus";
  if (!is_folder(root)) return device;
  for (const std::string& gpu : list_folder(root)) {
    const std::string file = cat(root, "/", gpu, "/information");
    const std::string text =
        output_of("sed -n 's/^Model:[[:space:]]*//p' " + file).second;  // has no size to read by
    if (!text.empty()) return text;
  }
  return device;
}

bool training_finished(const PlannedRun& run) {
  if (!path_exists(run.folder + "/metrics.jsonl") || !path_exists(run.folder + "/config.toml")) {
    return false;
  }
  try {
    const report::RunReport report = report::read_run(run.folder);
    return report.step == run.config.train.steps && !report.validation.empty() &&
           report.validation.back().tokens >= static_cast<double>(report.tokens) &&
           config_hash(report.config) == run.hash;
  } catch (const Error&) {
    return false;  // a run that was cut off in the middle of something starts again
  }
}

RunResult collect_run(const PlannedRun& run, const std::string& commit, const std::string& device) {
  const report::RunReport report = report::read_run(run.folder);
  if (report.validation.empty() || !std::isfinite(report.loss)) {
    fail(Exit::data, run.folder,
         " has no validation loss; an experiment's runs need validation "
         "data (data.val_fraction)");
  }
  RunResult out = result_of(run, commit, device);
  out.config = read_file(run.folder + "/config.toml");
  add_model(report.cost, out.metrics);
  if (path_exists(run.folder + "/eval.json")) {
    add_numbers(read_object(run.folder + "/eval.json"), out.metrics);
  }
  add_live(run.folder, out.metrics);
  out.metrics["loss"] = report.loss;
  out.metrics["perplexity"] = std::exp(report.loss);
  out.metrics["tokens"] = static_cast<double>(report.tokens);
  out.metrics["seconds"] = report.seconds;
  out.metrics["tokens_per_s"] = report.tokens_per_s;
  if (std::isfinite(report.dropped)) out.metrics["dropped"] = report.dropped;
  if (std::isfinite(report.imbalance)) out.metrics["imbalance"] = report.imbalance;
  for (const report::LossPoint& point : report.validation) {
    out.validation.emplace_back(point.tokens, point.loss);
  }
  out.training = smoothed(report.training);
  return out;
}

RunResult collect_evaluation(const PlannedRun& run, const RunResult& source,
                             const std::string& commit, const std::string& json_file) {
  RunResult out = result_of(run, commit, source.device);
  for (const char* key :
       {"params_total", "params_active", "params_expert", "flops_per_token", "tokens"}) {
    const auto found = source.metrics.find(key);
    if (found != source.metrics.end()) out.metrics.insert(*found);
  }
  const Json json = read_object(json_file);
  add_numbers(json, out.metrics);
  if (json.contains("results")) {
    for (const auto& [key, value] : task_metrics(json_file)) out.metrics[key] = value;
  }
  if (out.metrics.count("loss")) out.metrics["perplexity"] = std::exp(out.metrics["loss"]);
  return out;
}

std::map<std::string, double> task_metrics(const std::string& json_file) {
  std::map<std::string, double> metrics;
  const Json json = read_object(json_file);
  for (const auto& [task, values] : json_member(json, "results", json_file).items()) {
    for (const auto& [key, value] : values.items()) {
      const std::string metric = key.substr(0, key.find(','));
      if ((metric == "acc" || metric == "exact_match") && value.is_number()) {
        metrics["acc." + task] = value.get<double>();
      }
    }
  }
  return metrics;
}

std::map<std::string, double> bench_metrics(const std::string& json_file) {
  const Json json = read_object(json_file);
  const auto peak = json_value<double>(json, "peak_bytes", json_file);
  return {{"bench.tokens_per_s", json_value<double>(json, "tokens_per_s", json_file)},
          {"bench.step_ms", json_value<double>(json, "step_ms", json_file)},
          {"bench.peak_bytes", peak}};
}

bool read_run_result(const PlannedRun& run, RunResult& result) {
  const std::string path = run.folder + "/result.json";
  const Results found = read_results(path);
  if (found.runs.empty() || found.runs[0].config_hash != run.hash) return false;
  result = found.runs[0];
  return true;
}

void write_run_result(const PlannedRun& run, const RunResult& result) {
  write_results(run.folder + "/result.json", {{result}});
}

}  // namespace pyramoe::lab
