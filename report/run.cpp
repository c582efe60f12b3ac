#include "report/run.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "core/file.h"
#include "core/json.h"

namespace pyramoe::report {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

std::string base_name(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  const size_t slash = folder.rfind('/');
  return slash == std::string::npos || folder.size() == 1 ? folder : folder.substr(slash + 1);
}

// A number, or NaN for null: JSON has no other way to say it.
double number(const Json& object, const std::string& key, const std::string& what) {
  return json_member(object, key, what).is_null() ? kNone : json_value<double>(object, key, what);
}

double number_or_none(const Json& object, const std::string& key, const std::string& what) {
  return object.contains(key) ? number(object, key, what) : kNone;
}

double mean(const std::vector<double>& values) {
  if (values.empty()) return kNone;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double median(std::vector<double> values) {
  if (values.empty()) return kNone;
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Samples {
  std::vector<double> tokens_per_s, dropped, imbalance;

  // Of the last tenth of the steps, the numbers that are numbers.
  static double at_end(const std::vector<double>& all) {
    const auto n = static_cast<int64_t>(all.size());
    std::vector<double> last;
    for (auto it = all.end() - (n + 9) / 10; it != all.end(); ++it) {
      if (std::isfinite(*it)) last.push_back(*it);
    }
    return mean(last);
  }
};

void add_row(const Json& row, const std::string& what, RunReport& run, Samples& samples) {
  const auto step = json_value<int64_t>(row, "step", what);
  const auto tokens = json_value<int64_t>(row, "tokens", what);
  if (step < 0 || tokens < 0) fail(Exit::data, what, ": step and tokens cannot be negative");
  if (row.contains("val_loss")) {
    run.validation.push_back({static_cast<double>(tokens), number(row, "val_loss", what)});
    return;
  }
  run.training.push_back({static_cast<double>(tokens), number(row, "loss", what)});
  run.step = std::max(run.step, step);
  run.tokens = std::max(run.tokens, tokens);
  const double rate = number(row, "tokens_per_s", what);
  if (std::isfinite(rate)) samples.tokens_per_s.push_back(rate);
  const double ms = number_or_none(row, "step_ms", what);
  if (std::isfinite(ms)) run.seconds += ms / 1e3;
  if (!row.contains("dropped")) return;
  samples.dropped.push_back(number(row, "dropped", what));
  samples.imbalance.push_back(number_or_none(row, "imbalance", what));
}

void read_metrics(RunReport& run) {
  const std::string path = run.folder + "/metrics.jsonl";
  const std::string text = read_file(path, kMaxReadFile, Exit::checkpoint);
  Samples samples;
  size_t begin = 0;
  for (int64_t line = 1; begin < text.size(); ++line) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // being written, or cut by a kill
    const std::string what = cat(path, ", line ", line);
    add_row(parse_json(std::string_view(text).substr(begin, end - begin), what), what, run,
            samples);
    begin = end + 1;
  }
  run.tokens_per_s = median(samples.tokens_per_s);
  run.dropped = Samples::at_end(samples.dropped);
  run.imbalance = Samples::at_end(samples.imbalance);
}

// One row of counts for each layer of experts, as long as the plan says.
std::vector<std::vector<int64_t>> read_load(const Json& rows, const RunReport& run,
                                            const std::string& what) {
  std::vector<std::vector<int64_t>> load;
  if (!rows.is_array() || rows.size() != run.moe_layers.size()) {
    fail(Exit::data, what, ": load needs a list for each of the ", run.moe_layers.size(),
         " layers of experts");
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto block = static_cast<size_t>(run.moe_layers[i]);
    const auto experts = static_cast<size_t>(run.cost.layers[block].plan.experts);
    if (!rows[i].is_array() || rows[i].size() != experts) {
      fail(Exit::data, what, ": load of block ", block, " needs ", experts, " counts");
    }
    std::vector<int64_t>& counts = load.emplace_back();
    for (const Json& count : rows[i]) {
      if (!count.is_number_integer() || count.get<double>() < 0 || count.get<double>() > 1e18) {
        fail(Exit::data, what, ": load of block ", block, " must be counts");
      }
      counts.push_back(count.get<int64_t>());
    }
  }
  return load;
}

void read_moe_layers(const Json& eval, const std::string& path, RunReport& run) {
  if (!eval.contains("moe_layers")) return;
  const Json& layers = eval["moe_layers"];
  if (!layers.is_array()) fail_json_type(layers, "moe_layers", path, "a list", Exit::data);
  const auto blocks = static_cast<int64_t>(run.cost.layers.size());
  for (const Json& layer : layers) {
    const int64_t block = layer.is_number_integer() ? layer.get<int64_t>() : -1;
    if (block < 0 || block >= blocks ||
        run.cost.layers[static_cast<size_t>(block)].plan.experts == 0) {
      fail(Exit::data, path, ": moe_layers names block ", layer.dump(),
           ", which has no experts in ", run.folder, "/config.toml");
    }
    run.moe_layers.push_back(block);
  }
}

void read_eval(RunReport& run) {
  const std::string path = run.folder + "/eval.json";
  if (!path_exists(path)) return;
  const Json eval = read_json(path);
  run.loss = number(eval, "loss", path);
  if (eval.contains("tokens")) run.loss_tokens = json_value<int64_t>(eval, "tokens", path);
  const double imbalance = number_or_none(eval, "imbalance", path);
  if (std::isfinite(imbalance) && imbalance > 0) run.imbalance = imbalance;
  read_moe_layers(eval, path, run);
  if (!eval.contains("domains")) return;
  if (!eval["domains"].is_object()) {
    fail_json_type(eval["domains"], "domains", path, "an object", Exit::data);
  }
  for (const auto& [name, part] : eval["domains"].items()) {
    const std::string what = cat(path, ", domain ", quoted(name));
    DomainLoss domain{name, number(part, "loss", what), -1, {}};
    if (part.contains("tokens")) domain.tokens = json_value<int64_t>(part, "tokens", what);
    if (part.contains("load")) domain.load = read_load(part["load"], run, what);
    run.domains.push_back(std::move(domain));
  }
}

}  // namespace

RunReport read_run(const std::string& folder) {
  const std::string config = folder + "/config.toml";
  if (!is_folder(folder) || !path_exists(config)) {
    fail(Exit::checkpoint, "report: ", folder,
         " is no run folder (it has no config.toml); expected one that pyramoe train has made");
  }
  if (!path_exists(folder + "/metrics.jsonl")) {
    fail(Exit::checkpoint, "report: ", folder, " has no metrics.jsonl: train it first");
  }
  RunReport run;
  run.name = base_name(folder);
  run.folder = folder;
  run.loss = run.dropped = run.imbalance = kNone;
  try {
    run.config = train::parse_run_config(read_file(config), config);
    run.cost = moe::model_cost(run.config.model, train::dtype_of(run.config));
  } catch (const Error& error) {
    fail(Exit::data, error.what());
  }
  read_metrics(run);
  read_eval(run);
  if (!std::isfinite(run.loss) && !run.validation.empty()) run.loss = run.validation.back().loss;
  return run;
}

void tell_apart(std::vector<RunReport>& runs) {
  std::map<std::string, int> count;
  for (const RunReport& run : runs) ++count[run.name];
  for (RunReport& run : runs) {
    if (count[run.name] > 1) run.name = run.folder;
  }
}

}  // namespace pyramoe::report
