// pyramoe train: a config file, overrides, a run folder.
#include <cstdio>

#include "cli/commands.h"
#include "cli/ranks.h"
#include "train/layout.h"
#include "train/run.h"

namespace pyramoe {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  std::string device = "auto";
  bool keys = false, markdown = false;
};

void train_on(dist::Runtime& runtime, train::RunConfig& config, Device device) {
  const dist::Mesh mesh = start_mesh(runtime, config);
  if (runtime.many() && runtime.world().rank() == 0) {
    std::printf("%s", mesh.table(train::layer_experts(config)).c_str());
    std::fflush(stdout);
  }
  train::run_training(config, device, &mesh);
}

void train_command(const Options& options) {
  if (options.config.empty() && !options.keys) {
    fail(Exit::config, "train: expected a config file, e.g. experiments/base/tiny_pr_moe.toml");
  }
  if (options.keys) {
    const train::RunConfig defaults;
    std::printf("%s", (options.markdown ? train::config_page() : help_text(defaults)).c_str());
    return;
  }
  train::RunConfig config = train::load_run_config(options.config, options.overrides);
  on_all_ranks(
      [&](dist::Runtime& runtime) { train_on(runtime, config, parse_device(options.device)); });
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("train", "Train a model: pyramoe train CONFIG.toml [key=value ...]");
  CLI::Option* config =
      command->add_option("config", options->config, "TOML file; experiments/base has examples");
  command->add_option("overrides", options->overrides, "settings that win over the file, key=value")
      ->needs(config);
  command->add_option("--device", options->device, "cpu, cuda or auto")->capture_default_str();
  command->add_flag("--keys", options->keys, "list every setting with its meaning, and end");
  command->add_flag("--markdown", options->markdown, "with --keys: as docs/config.md has them");
  command->footer(
      "The run folder (run.dir) gets config.toml, metrics.jsonl, metrics.csv, a TensorBoard file\n"
      "and checkpoints/. The same command goes on from the newest intact checkpoint. SIGTERM\n"
      "saves and ends with status 75.\n\n"
      "  pyramoe train experiments/base/tiny_pr_moe.toml train.steps=50 run.dir=runs/try");
  command->callback([options] { train_command(*options); });
}

}  // namespace pyramoe
