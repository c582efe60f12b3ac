// pyramoe train: a config file, overrides, a run folder.
#include <cstdio>

#include "cli/commands.h"
#include "train/run.h"

namespace pyramoe {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  std::string device = "auto";
  bool keys = false, markdown = false;
};

void train_command(const Options& options) {
  if (options.config.empty() && !options.keys) {
    fail(Exit::config, "train: expected a config file, e.g. experiments/base/tiny_pr_moe.toml");
  }
  if (options.keys) {
    const train::RunConfig defaults;
    std::printf("%s", (options.markdown ? train::config_page() : help_text(defaults)).c_str());
    return;
  }
  const Device device = parse_device(options.device);
  train::run_training(train::load_run_config(options.config, options.overrides), device);
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
