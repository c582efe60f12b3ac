// results.json and the result.json of one run (a Results of one): read, written, added to. One run
// is a few long lines, a member each, so that a diff of the committed file names what changed.
#include "lab/results.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <tuple>

#include "core/file.h"
#include "core/json.h"

namespace pyramoe::lab {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

double read_number(const Json& value, const std::string& key, const std::string& what) {
  if (value.is_null()) return kNone;  // JSON has no other way to say it
  if (!value.is_number()) fail_json_type(value, key, what, "a number or null", Exit::data);
  return value.get<double>();
}

Json curve_json(const Curve& curve) {
  Json out = Json::array();
  for (const auto& [tokens, loss] : curve) out.push_back({number(tokens), number(loss)});
  return out;
}

Curve read_curve(const Json& run, const std::string& key, const std::string& what) {
  const Json& points = json_member(run, key, what);
  if (!points.is_array()) fail_json_type(points, key, what, "a list", Exit::data);
  Curve out;
  for (const Json& point : points) {
    if (!point.is_array() || point.size() != 2) {
      fail_json_type(point, key, what, "pairs [tokens, loss]", Exit::data);
    }
    out.emplace_back(read_number(point[0], key, what), read_number(point[1], key, what));
  }
  return out;
}

RunResult read_one(const Json& run, const std::string& what) {
  if (!run.is_object()) fail_json_type(run, "runs", what, "objects", Exit::data);
  RunResult out;
  out.arm = json_value<std::string>(run, "arm", what);
  out.scale = json_value<std::string>(run, "scale", what);
  out.seed = json_value<int64_t>(run, "seed", what);
  out.config_hash = json_value<std::string>(run, "config_hash", what);
  out.commit = json_value<std::string>(run, "commit", what);
  out.device = json_value<std::string>(run, "device", what);
  out.config = json_value<std::string>(run, "config", what);
  const Json& metrics = json_member(run, "metrics", what);
  if (!metrics.is_object()) fail_json_type(metrics, "metrics", what, "an object", Exit::data);
  for (const auto& [key, value] : metrics.items()) {
    out.metrics[key] = read_number(value, key, what);
  }
  out.validation = read_curve(run, "validation", what);
  out.training = read_curve(run, "training", what);
  return out;
}

std::string write_one(const RunResult& run) {
  Json metrics = Json::object();
  for (const auto& [key, value] : run.metrics) metrics[key] = number(value);
  std::string out = "{";
  const auto member = [&out](const char* key, const Json& value, const char* end) {
    out += cat('"', key, "\": ", dump_json(value), end);
  };
  member("arm", run.arm, ", ");
  member("scale", run.scale, ", ");
  member("seed", run.seed, ",\n   ");
  member("config_hash", run.config_hash, ", ");
  member("commit", run.commit, ", ");
  member("device", run.device, ",\n   ");
  member("config", run.config, ",\n   ");
  member("metrics", metrics, ",\n   ");
  member("validation", curve_json(run.validation), ",\n   ");
  member("training", curve_json(run.training), "}");
  return out;
}

auto place(const RunResult& run) { return std::tie(run.scale, run.arm, run.seed); }

// The loss after `tokens`, on the straight line between the two validations around it.
double loss_after(const Curve& curve, double tokens) {
  for (size_t i = 0; i < curve.size(); ++i) {
    const auto& [at, loss] = curve[i];
    if (at < tokens) continue;
    if (at == tokens) return loss;
    if (i == 0) return kNone;
    const auto& [before, loss_before] = curve[i - 1];
    return loss_before + (loss - loss_before) * (tokens - before) / (at - before);
  }
  return kNone;
}

}  // namespace

Results read_results(const std::string& path) {
  Results out;
  if (!path_exists(path)) return out;
  const Json json = read_json(path);
  const Json& runs = json_member(json, "runs", path);
  if (!runs.is_array()) fail_json_type(runs, "runs", path, "a list", Exit::data);
  for (const Json& run : runs) {
    const std::string what = cat(path, ", run ", out.runs.size() + 1);
    out.runs.push_back(read_one(run, what));
    if (out.runs.size() > 1 && !(place(out.runs.end()[-2]) < place(out.runs.back()))) {
      fail(Exit::data, what, ": runs must be ordered by scale, arm and seed, each of them once");
    }
  }
  return out;
}

std::string results_text(const Results& results) {
  std::string out = "{\"runs\": [";
  for (size_t i = 0; i < results.runs.size(); ++i) {
    out += (i == 0 ? "\n  " : ",\n  ") + write_one(results.runs[i]);
  }
  return out + "\n]}\n";
}

void write_results(const std::string& path, const Results& results) {
  write_file(path, results_text(results), Exit::data);
}

void add_result(Results& results, RunResult run) {
  const auto at =
      std::lower_bound(results.runs.begin(), results.runs.end(), run,
                       [](const RunResult& a, const RunResult& b) { return place(a) < place(b); });
  if (at != results.runs.end() && place(*at) == place(run)) {
    *at = std::move(run);
  } else {
    results.runs.insert(at, std::move(run));
  }
}

double metric_of(const RunResult& run, const std::string& metric) {
  const size_t at = metric.find('@');
  if (at == std::string::npos) {
    const auto found = run.metrics.find(metric);
    return found == run.metrics.end() ? kNone : found->second;
  }
  double share = 0;
  const char* end = metric.data() + metric.size();
  const auto parsed = std::from_chars(metric.data() + at + 1, end, share);
  if (metric.substr(0, at) != "loss" || parsed.ec != std::errc() || parsed.ptr != end ||
      !(share > 0 && share <= 1)) {
    fail(Exit::config, "metric ", quoted(metric),
         ": only loss@SHARE has an @, with 0 < SHARE <= 1, as in loss@0.5");
  }
  if (run.validation.empty()) return kNone;
  return loss_after(run.validation, share * run.validation.back().first);
}

}  // namespace pyramoe::lab
