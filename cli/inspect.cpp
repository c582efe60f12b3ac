// pyramoe inspect: what a config or a run is, without starting anything.
#include <fmt/format.h>

#include <cstdio>

#include "cli/commands.h"
#include "core/file.h"
#include "core/json.h"
#include "dist/flight_record.h"
#include "moe/model_cost.h"
#include "nn/checkpoint.h"
#include "train/progress.h"
#include "train/run_config.h"

namespace pyramoe {
namespace {

struct Options {
  std::string path;
  std::vector<std::string> overrides;
  bool json = false;
  bool tensors = false;
};

// 13140000000 -> "13.1 B", with the billions of counts; bytes and FLOPs say G.
std::string human(double n, const char* unit, const char* giga) {
  for (const char* prefix : {"", "K", "M", giga, "T", "P"}) {
    if (n < 999.5) return fmt::format("{:.3g} {}{}", n, prefix, unit);
    n /= 1000;
  }
  return fmt::format("{:.3g} E{}", n, unit);
}
std::string count_of(int64_t n) { return human(static_cast<double>(n), "", "B"); }
std::string amount_of(int64_t n, const char* unit) {
  return human(static_cast<double>(n), unit, "G");
}

Json as_json(const moe::ModelCost& cost) {
  Json out;
  out["params_total"] = cost.params_total;
  out["params_active"] = cost.params_active;
  out["params_expert"] = cost.params_expert;
  out["params_dense"] = cost.params_dense;
  out["flops_per_token"] = cost.flops_per_token;
  out["bytes"] = cost.bytes_weights;
  out["bytes_training"] = cost.bytes_training;
  out["layers"] = Json::array();
  for (const moe::LayerCost& layer : cost.layers) {
    out["layers"].push_back({{"kind", moe::kind_name(layer.plan.kind)},
                             {"experts", layer.plan.experts},
                             {"live", layer.plan.live},
                             {"top_k", layer.plan.top_k},
                             {"degree", layer.plan.degree},
                             {"params", layer.params},
                             {"params_active", layer.params_active},
                             {"flops_per_token", layer.flops_per_token}});
  }
  return out;
}

// Slots that begin with an expert, where not all do (moe.budget): "8 of 24".
std::string experts_of(const moe::LayerPlan& plan) {
  if (plan.live == plan.experts) return cat(plan.experts);
  return cat(plan.live, " of ", plan.experts);
}

// Equal neighbours share a row: "0, 2, … 18".
void print_layers(const moe::ModelCost& cost) {
  fmt::print("{:<10} {:<13} {:>8} {:>6} {:>7} {:>12} {:>12} {:>12}\n", "layer", "kind", "experts",
             "top_k", "degree", "params", "active", "FLOPs/token");
  for (size_t i = 0; i < cost.layers.size(); ++i) {
    const moe::LayerCost& layer = cost.layers[i];
    fmt::print("{:<10} {:<13} {:>8} {:>6} {:>7} {:>12} {:>12} {:>12}\n", i,
               moe::kind_name(layer.plan.kind), experts_of(layer.plan), layer.plan.top_k,
               layer.plan.degree, count_of(layer.params), count_of(layer.params_active),
               amount_of(layer.flops_per_token, ""));
  }
}

void print_totals(const train::RunConfig& config, const moe::ModelCost& cost) {
  const auto row = [](const char* what, int64_t n, const std::string& note) {
    fmt::print("{:<22} {:>22}  {}\n", what, train::with_commas(n), note);
  };
  row("parameters", cost.params_total, count_of(cost.params_total));
  row("  active per token", cost.params_active, count_of(cost.params_active));
  row("  in experts", cost.params_expert, count_of(cost.params_expert));
  row("  elsewhere", cost.params_dense, count_of(cost.params_dense));
  row("FLOPs per token", cost.flops_per_token,
      amount_of(cost.flops_per_token, "FLOP") + ", forward and backward");
  row("bytes of weights", cost.bytes_weights,
      amount_of(cost.bytes_weights, "B") + " in " + config.train.dtype);
  row("bytes to train", cost.bytes_training,
      amount_of(cost.bytes_training, "B") + ": weights, gradients, moments, without activations");
}

void print_tensors(const std::string& path) {
  const nn::Checkpoint checkpoint = nn::Checkpoint::find(path);
  fmt::print("\n{}: step {}, intact\n", checkpoint.folder(), checkpoint.step());
  const SafetensorsReader file(checkpoint.folder() + "/model.safetensors");
  for (const SafetensorsEntry& entry : file.entries()) {
    fmt::print("  {:<48} {:<5} {}\n", entry.name, entry.dtype, to_string(entry.shape));
  }
}

void inspect(const Options& options) {
  const bool is_run = is_folder(options.path);
  if (is_run && !options.overrides.empty()) {
    fail(Exit::config, "inspect: ", options.path, " is a run, whose settings are as they are; try ",
         "others with pyramoe inspect ", options.path, "/config.toml ", options.overrides[0]);
  }
  if (!is_run && options.tensors) {
    fail(Exit::config, "inspect: --tensors lists a run's checkpoint; ", options.path, " is none");
  }
  if (is_run && !options.json) {
    const std::string words = dist::describe_flight(dist::read_flight(options.path));
    if (!words.empty()) fmt::print("{}\n", words);
  }
  const train::RunConfig config =
      is_run ? train::parse_run_config(nn::Checkpoint::find(options.path).config(), options.path)
             : train::load_run_config(options.path, options.overrides);
  const moe::ModelCost cost = moe::model_cost(config.model, train::dtype_of(config));
  if (options.json) {
    fmt::print("{}\n", as_json(cost).dump(1));
    return;
  }
  print_layers(cost);
  fmt::print("\n");
  print_totals(config, cost);
  if (options.tensors) print_tensors(options.path);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "inspect", "Layer plan, parameters, FLOPs and bytes of a config or a run; starts nothing");
  command->add_option("config_or_run", options->path, "TOML config, run folder or checkpoint")
      ->required()
      ->check(named());
  command->add_option("overrides", options->overrides, "settings as key=value");
  CLI::Option* json = command->add_flag("--json", options->json, "one JSON object");
  command->add_flag("--tensors", options->tensors, "list the tensors of a run's checkpoint")
      ->excludes(json);
  command->callback([options] { inspect(*options); });
}

}  // namespace pyramoe
