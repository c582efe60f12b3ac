// pyramoe experiment: lists, plans and runs the folders under experiments/.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "cli/commands.h"
#include "core/file.h"
#include "core/parallel.h"
#include "core/text.h"
#include "lab/collect.h"
#include "lab/prepare.h"
#include "lab/runner.h"
#include "lab/screen.h"
#include "lab/slurm.h"
#include "train/progress.h"

namespace pyramoe {
namespace {

struct Options {
  std::vector<std::string> folders;
  std::string scale = "cpu", device, arm;
  std::vector<std::string> set;
  lab::PlanOptions plan;
  int jobs = 0;
  int64_t seed = 1;
  double minutes = 0;
  bool keep_weights = false, collect = false;
};

// Folders that are experiments, and the experiments in those that are not.
std::vector<std::string> experiment_folders(const std::vector<std::string>& given) {
  std::vector<std::string> folders;
  for (const std::string& folder : given) {
    if (path_exists(folder + "/experiment.toml") || !is_folder(folder)) {
      folders.push_back(folder);
      continue;
    }
    const size_t before = folders.size();
    for (const std::string& name : list_folder(folder, Exit::config)) {
      if (path_exists(cat(folder, "/", name, "/experiment.toml"))) {
        folders.push_back(cat(folder, "/", name));
      }
    }
    if (folders.size() == before) {
      fail(Exit::config, "experiment: neither ", folder,
           " nor a folder in it has an experiment.toml");
    }
  }
  return folders;
}

struct Planned {
  lab::Scale scale;
  std::vector<lab::Definition> definitions;
  std::vector<lab::PlannedRun> runs;
};

void add_settings(Options& options) {
  for (const std::string& text : options.set) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      fail(Exit::config, "--set: expected key=value such as train.lr=2e-3, got ", quoted(text));
    }
    options.plan.set.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
}

Planned make_plan(Options options) {
  add_settings(options);
  Planned planned;
  std::set<std::string> unmet(options.plan.arms.begin(), options.plan.arms.end());
  for (const std::string& folder : experiment_folders(options.folders)) {
    const lab::Definition& d = planned.definitions.emplace_back(lab::read_definition(folder));
    planned.scale = lab::read_scale(d.folder, options.scale);
    lab::PlanOptions plan = options.plan;
    plan.arms.clear();
    for (const lab::Arm& arm : d.arms) {
      const auto& wanted = options.plan.arms;
      if (std::find(wanted.begin(), wanted.end(), arm.name) == wanted.end()) continue;
      plan.arms.push_back(arm.name);
      unmet.erase(arm.name);
    }
    if (!options.plan.arms.empty() && plan.arms.empty()) continue;
    std::vector<lab::PlannedRun> runs = lab::plan_runs(d, planned.scale, plan);
    planned.runs.insert(planned.runs.end(), std::make_move_iterator(runs.begin()),
                        std::make_move_iterator(runs.end()));
  }
  if (!unmet.empty()) {
    fail(Exit::config, "--arms: none of these experiments has an arm ", quoted(*unmet.begin()));
  }
  return planned;
}

void list_command(const Options& options) {
  const std::vector<std::string> given =
      options.folders.empty() ? std::vector<std::string>{"experiments"} : options.folders;
  for (const std::string& folder : experiment_folders(given)) {
    const lab::Definition d = lab::read_definition(folder);
    std::printf("%s\n    %s  (%zu arms, %zu claims; %s)\n", d.folder.c_str(), d.question.c_str(),
                d.arms.size(), d.claims.size(), d.source.c_str());
  }
}

// What a core or GPU does in a second: as runs that are done did it, else a guess that is said.
double flops_per_second(const Planned& planned, const std::string& device, bool& measured) {
  double flops = 0, seconds = 0;
  for (const lab::PlannedRun& run : planned.runs) {
    lab::RunResult result;
    if (!run.reuse.empty() || !lab::read_run_result(run, result)) continue;
    flops += run.flops;
    seconds += result.metrics["seconds"];
  }
  measured = seconds > 0;
  return measured ? flops / seconds : device == "cuda" ? 1e14 : 2.5e10;
}

void plan_command(const Options& options) {
  const Planned planned = make_plan(options);
  std::set<std::string> seen;
  std::string experiment;
  size_t done = 0;
  double to_go = 0;
  for (const lab::PlannedRun& run : planned.runs) {
    if (run.experiment != experiment) {
      experiment = run.experiment;
      fmt::print("\n{}, scale {}\n  {:<20} {:>4} {:>15} {:>15} {:>13} {:>9}  {:<16}  {}\n",
                 experiment, run.scale, "arm", "seed", "parameters", "active", "tokens", "FLOPs",
                 "hash", "state");
    }
    lab::RunResult result;
    const bool is_done = lab::read_run_result(run, result);
    const bool first = seen.insert(run.folder).second;
    if (first && is_done) ++done;
    if (first && !is_done) to_go += run.flops;
    fmt::print("  {:<20} {:>4} {:>15} {:>15} {:>13} {:>9.2g}  {:<16}  {}\n", run.arm, run.seed,
               train::with_commas(run.cost.params_total),
               train::with_commas(run.cost.params_active),
               train::with_commas(std::llround(run.tokens)), run.flops, run.hash,
               is_done ? "done"
               : first ? ""
                       : "shared");
  }
  fmt::print("\n{} runs, {} of them different, {} done\n", planned.runs.size(), seen.size(), done);
  if (planned.scale.dry || to_go == 0) return;
  const std::string device = options.device.empty() ? planned.scale.device : options.device;
  bool measured = false;
  const double rate = flops_per_second(planned, device, measured);
  const int places = device == "cuda" ? 1 : num_threads();
  fmt::print("{:.3g} FLOPs to go: about {} on {} at {:.3g} FLOP/s each ({})\n", to_go,
             lab::time_text(to_go / rate / places),
             device == "cuda" ? "one GPU" : fmt::format("{} cores", places), rate,
             measured ? "as the runs that are done" : "a guess");
}

std::string own_path() {
  char path[4096];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
  return length > 0 ? std::string(path, static_cast<size_t>(length)) : "pyramoe";
}

// Results of runs that others trained: the tasks of a job array.
void collect_only(const Planned& planned, const std::string& device) {
  int64_t collected = 0, missing = 0;
  for (const lab::PlannedRun& run : planned.runs) {
    lab::RunResult result;
    if (!run.reuse.empty() || lab::read_run_result(run, result)) continue;
    if (!lab::training_finished(run)) {
      std::printf("not finished: %s of %s, %s\n", lab::name_of(run).c_str(), run.experiment.c_str(),
                  run.folder.c_str());
      ++missing;
      continue;
    }
    lab::write_run_result(run, lab::collect_run(run, lab::program_commit(), device));
    ++collected;
  }
  std::printf("%lld collected, %lld not finished\n", static_cast<long long>(collected),
              static_cast<long long>(missing));
}

void run_command(const Options& options) {
  Planned planned = make_plan(options);
  std::vector<std::string> folders;
  for (const lab::Definition& d : planned.definitions) folders.push_back(d.folder);
  lab::RunnerOptions how;
  how.device = options.device.empty() ? planned.scale.device : options.device;
  how.jobs = options.jobs;
  how.keep_weights = options.keep_weights;
  how.minutes = options.minutes;
  if (options.collect) return collect_only(planned, lab::device_name(how.device));
  if (planned.scale.dry) {
    std::printf("%s", lab::slurm_script(planned.scale, folders, planned.runs).c_str());
    return;
  }
  lab::prepare_data(planned.scale, planned.runs, own_path());
  const std::string no_tasks = lab::without_tasks(planned.runs);
  if (!no_tasks.empty()) {
    std::printf("%s is not there or empty: zero-shot tasks are left out\n", no_tasks.c_str());
  }
  const int status = lab::run_planned(planned.runs, how);
  if (status == 0) return;
  fail(static_cast<Exit>(status), "not all runs were done; the same command tries the rest again");
}

void config_command(Options options) {
  options.plan.arms = {options.arm};
  options.plan.seeds = options.seed;
  for (lab::PlannedRun& run : make_plan(options).runs) {
    if (run.arm != options.arm || run.seed != options.seed) continue;
    run.config.dir = run.folder;
    std::printf("%s", to_toml(run.config).c_str());
  }
}

void add_plan_options(CLI::App* command, Options& o) {
  command->add_option("folders", o.folders, "experiments/NAME ..., or experiments for all of them")
      ->required();
  command->add_option("--scale", o.scale, "smoke, cpu, small or paper: experiments/scales has them")
      ->capture_default_str();
  command->add_option("--seeds", o.plan.seeds, "seeds 1 ... N; default: the scale's")
      ->check(CLI::Range(1, 1000));
  command->add_option("--arms", o.plan.arms, "only these arms, and what they need")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--runs", o.plan.runs, "where run folders lie")
      ->check(named())
      ->capture_default_str();
  command
      ->add_option("--long", o.plan.length,
                   "factor on steps, warm-up and time between "
                   "validations")
      ->capture_default_str();
  command->add_option("--set", o.set, "key=value over all arms' settings")->allow_extra_args(false);
  command->add_option("--device", o.device, "cpu or cuda; default: the scale's")
      ->check(CLI::IsMember({"cpu", "cuda"}));
}

}  // namespace

void add_experiment(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("experiment", "Run the ablations of experiments/ with seeds, resumable");
  command->require_subcommand(1);
  const auto add = [&](const char* name, const char* what, auto callback) {
    auto options = std::make_shared<Options>();
    CLI::App* sub = command->add_subcommand(name, what);
    sub->callback([options, callback] { callback(*options); });
    return std::make_pair(sub, options);
  };
  const auto [list, listed] = add("list", "The experiments and their questions", list_command);
  list->add_option("folders", listed->folders, "default: experiments");
  const auto [plan, planned] = add("plan", "Every run that `run` would make", plan_command);
  add_plan_options(plan, *planned);
  const auto [run, o] = add("run", "Train and evaluate what is not done yet", run_command);
  add_plan_options(run, *o);
  run->add_option("--jobs", o->jobs, "runs at a time; default: one a core, or one a GPU")
      ->check(CLI::Range(1, 1024));
  run->add_option("--minutes", o->minutes,
                  "end after these with status 75, and train nothing that would take longer")
      ->check(CLI::Range(0.0, 1e6));
  run->add_flag("--keep-weights", o->keep_weights, "keep what is else deleted after its last use");
  run->add_flag("--collect", o->collect, "start nothing: only gather what job arrays trained");
  run->footer(
      "The same command goes on where it was stopped, however it was stopped. Then:\n"
      "  pyramoe report experiments/fig4_pyramid_residual\n\n"
      "  pyramoe experiment run experiments/fig4_pyramid_residual --scale cpu");
  const auto [config, c] = add("config", "The whole config of one run, as TOML", config_command);
  add_plan_options(config, *c);
  config->add_option("--arm", c->arm, "its arm")->required();
  config->add_option("--seed", c->seed, "its seed")->check(CLI::Range(1, 1000));
}

}  // namespace pyramoe
