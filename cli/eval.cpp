// pyramoe eval: zero-shot scores of a trained model, counted as lm-eval does.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <iostream>

#include "cli/commands.h"
#include "core/file.h"
#include "infer/eval_report.h"
#include "infer/evaluate.h"
#include "infer/quantize.h"
#include "infer/run.h"
#include "train/evaluate.h"
#include "train/open_data.h"

namespace pyramoe {
namespace {

struct Options {
  std::string run, tasks, data, dtype, device = "cpu", output_path;
  infer::EvalOptions eval;
  bool json = false, loss = false;
  int64_t expert_bits = 0;  // 0 = as trained
  std::vector<std::string> sources;
};

// One line on a terminal, redrawn in place; nothing when stderr is a file.
void show_progress(const infer::Task& task, int64_t done, int64_t total) {
  if (isatty(STDERR_FILENO) != 1) return;
  std::fprintf(stderr, "\r%-16s %lld/%lld%s", task.name.c_str(), static_cast<long long>(done),
               static_cast<long long>(total), done == total ? "\r\x1b[K" : "");
  std::fflush(stderr);
}

void write_output(const Options& options, const Json& json,
                  const std::vector<infer::TaskResult>& results) {
  make_folders(options.output_path, Exit::data);
  write_file(options.output_path + "/results.json", dump_json(json, 2) + "\n", Exit::data);
  if (!options.eval.keep_samples) return;
  for (const infer::TaskResult& result : results) {
    write_file(options.output_path + "/samples_" + result.task->name + ".jsonl",
               infer::samples_jsonl(result), Exit::data);
  }
}

void warn(const std::vector<infer::TaskResult>& results) {
  for (const infer::TaskResult& result : results) {
    if (result.cut == 0) continue;
    std::fprintf(stderr,
                 "%s: %lld continuations were longer than the model's context and lost their "
                 "beginning; their scores are not comparable\n",
                 result.task->name.c_str(), static_cast<long long>(result.cut));
  }
}

std::map<std::string, double> as_numbers(const infer::StorageBytes& bytes) {
  return {{"expert_bits", static_cast<double>(bytes.expert_bits)},
          {"expert_bytes", static_cast<double>(bytes.expert_bytes)},
          {"total_bytes", static_cast<double>(bytes.total_bytes)}};
}

// Loss and perplexity over the whole validation part of every domain of the run, or over all of
// the files of --source.
void loss_command(const Options& options) {
  infer::LoadedRun run =
      infer::load_run(options.run, infer::parse_dtype(options.dtype), parse_device(options.device));
  const infer::StorageBytes bytes = infer::quantize_experts(run, options.expert_bits);
  const nn::Checkpoint checkpoint = nn::Checkpoint::find(run.checkpoint);
  train::RunConfig config = train::parse_run_config(checkpoint.config(), run.checkpoint);
  config.train.eval_sequences = options.eval.limit;
  // The run's own copy: token files that were made with another tokenizer are refused.
  config.data.tokenizer = run.has_tokenizer ? run.folder + "/tokenizer" : "";
  if (!options.sources.empty()) {
    config.data.sources = options.sources;
    config.data.validation = options.sources;  // read whole
    config.data.weights.clear();
    config.data.synthetic = false;
  }
  if (!config.data.synthetic && config.data.sources.empty()) {
    fail(Exit::config, "eval: ", options.run,
         " has no data of its own; name token files with --source (made by `pyramoe tokenize "
         "prepare`)");
  }
  const train::OpenData data = train::open_data(config);
  const train::EvalResult result =
      train::evaluate(*run.model, *data.validation, data.corpus->names(), run.device);
  if (result.tokens == 0) {
    fail(Exit::config, "eval --loss: ", run.checkpoint, " keeps nothing to validate on (data.",
         "val_fraction = ", config.data.val_fraction, "); name a token file with --source");
  }
  if (options.json) {
    std::cout << train::eval_json(result, run.step, 0, 0, 0, as_numbers(bytes));
    return;
  }
  std::printf("%-24s %12s %12s %12s\n", "domain", "tokens", "loss", "perplexity");
  const auto row = [](const std::string& name, int64_t tokens, double loss) {
    std::printf("%-24s %12lld %12.4f %12.2f\n", name.c_str(), static_cast<long long>(tokens), loss,
                std::exp(loss));
  };
  for (const auto& [name, domain] : result.domains) row(name, domain.tokens, domain.loss);
  if (result.domains.size() > 1) row("all", result.tokens, result.loss);
  if (options.expert_bits == 0) return;
  std::printf("experts in %lld bits: %lld bytes, of the model's %lld\n",
              static_cast<long long>(bytes.expert_bits), static_cast<long long>(bytes.expert_bytes),
              static_cast<long long>(bytes.total_bytes));
}

// What would be passed over in silence is refused.
void check_options(const Options& o, bool about_loss) {
  if (o.eval.limit < 0) {
    fail(Exit::config, "--limit: expected >= 0 (0 = all), got ", o.eval.limit);
  }
  if (!about_loss && !o.sources.empty()) {
    fail(Exit::config, "eval: --source is of --loss; tasks are read from --data");
  }
  for (const auto& [given, name] :
       std::vector<std::pair<bool, const char*>>{{!o.tasks.empty(), "--tasks"},
                                                 {!o.data.empty(), "--data"},
                                                 {!o.output_path.empty(), "--output-path"},
                                                 {o.eval.keep_samples, "--log-samples"},
                                                 {o.eval.batch_size != 0, "--batch-size"}}) {
    if (given && about_loss) {
      fail(Exit::config, "eval: ", name,
           " is of tasks, not of --loss; ask for one at a time (--loss --json prints all numbers)");
    }
  }
}

void eval_command(const Options& options) {
  // Of what is asked for without a task, the loss is all there is to say.
  const bool about_loss =
      options.loss || (options.tasks.empty() && (options.json || options.expert_bits > 0));
  check_options(options, about_loss);
  if (about_loss) return loss_command(options);
  if (options.tasks.empty()) {
    fail(Exit::config, "eval: expected --tasks NAME,... or --loss; pyramoe eval --help lists them");
  }
  const std::vector<const infer::Task*> tasks = infer::parse_tasks(options.tasks);
  if (options.data.empty()) {
    fail(Exit::config, "eval: --tasks needs --data DIR, the folder with the tasks' files");
  }
  if (options.eval.keep_samples && options.output_path.empty()) {
    fail(Exit::config, "eval: --log-samples needs --output-path DIR");
  }
  for (const infer::Task* task : tasks) infer::load_task(*task, options.data);
  infer::LoadedRun run =
      infer::load_run(options.run, infer::parse_dtype(options.dtype), parse_device(options.device));
  const infer::StorageBytes bytes = infer::quantize_experts(run, options.expert_bits);
  if (!run.has_tokenizer) {
    std::fprintf(stderr, "%s has no tokenizer (it trained without data.tokenizer): text is bytes\n",
                 run.folder.c_str());
  }
  const std::vector<infer::TaskResult> results =
      infer::evaluate_tasks(run, tasks, options.data, options.eval, show_progress);
  warn(results);
  Json json = infer::results_json(results, run, options.eval);
  for (const auto& [name, value] : as_numbers(bytes)) json[name] = value;
  if (!options.output_path.empty()) write_output(options, json, results);
  if (options.json) {
    std::cout << dump_json(json, 2) << "\n";
  } else {
    std::cout << infer::results_table(results) << "protocol " << infer::kProtocol << ", "
              << run.checkpoint << "\n";
  }
}

std::string task_list() {
  std::string text;
  for (const infer::Task& task : infer::all_tasks()) {
    text += (text.empty() ? "" : ", ") + task.name;
  }
  return text;
}

}  // namespace

void add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command =
      app.add_subcommand("eval", "Score a trained model: zero-shot tasks, or loss by domain");
  command->add_option("run", o.run, "run folder, or one of its checkpoints")->required();
  command->add_option("--tasks", o.tasks, "comma-separated: " + task_list());
  command->add_flag("--loss", o.loss,
                    "loss and perplexity on the run's validation data, by domain");
  command->add_option("--source", o.sources,
                      "with --loss: token files instead of the run's, read whole");
  command->add_option("--data", o.data, "folder with the tasks' files (docs/eval.md)");
  command
      ->add_option(
          "--limit", o.eval.limit,
          "only the first N questions of each task (--loss: N sequences of each\ndomain); 0 = all")
      ->capture_default_str();
  command
      ->add_option("--batch-size,--batch_size", o.eval.batch_size,
                   "sequences in one pass; 0 = by length. Scores never depend on it")
      ->capture_default_str();
  command->add_option("--output-path,--output_path", o.output_path, "folder for results.json");
  command->add_flag("--log-samples,--log_samples", o.eval.keep_samples,
                    "every question with its scores, into --output-path");
  command->add_option("--dtype", o.dtype, "f32, bf16 or f64; default: as the model was trained");
  command->add_option("--device", o.device, "cpu or cuda")->capture_default_str();
  command->add_option("--expert-bits", o.expert_bits,
                      "round expert weights to 8 or 4 bits first (in effect, not in memory)");
  command->add_flag("--json", o.json, "print one JSON object instead of a table");
  command->footer(
      "Prompts and counting are lm-eval's (docs/eval.md); token dropping is off.\n\n"
      "  pyramoe eval runs/my_run --tasks lambada_openai,piqa --data eval_data --limit 200");
  command->callback([options] { eval_command(*options); });
}

}  // namespace pyramoe
