#include "cli/report_experiments.h"

#include <algorithm>
#include <cstdio>

#include "core/error.h"
#include "core/file.h"
#include "lab/experiment_report.h"

namespace pyramoe {
namespace {

// The experiments that a path stands for: itself, or those inside.
std::vector<std::string> expand(const std::string& path) {
  if (lab::is_experiment(path)) return {path};
  if (!is_folder(path)) return {};
  return lab::experiments_in(path);
}

std::vector<std::string> all_folders(const std::vector<std::string>& paths) {
  std::vector<std::string> out;
  for (std::string path : paths) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    for (std::string& folder : expand(path)) out.push_back(std::move(folder));
  }
  return out;
}

void print_verdicts(const lab::Experiment& experiment) {
  for (const std::string& scale : lab::shown_scales(experiment)) {
    for (const lab::JudgedClaim& judged : lab::judge_all(experiment, scale)) {
      std::printf("  %s: %-13s %s\n    %s\n", scale.c_str(),
                  lab::outcome_text(judged.verdict).c_str(), judged.text.c_str(),
                  judged.numbers.c_str());
    }
  }
}

void report_one(const ExperimentReportOptions& options, const std::string& folder) {
  lab::Experiment experiment = lab::read_experiment(folder);
  const std::string& name = experiment.definition.name;
  lab::PlanOptions plan;
  plan.runs = options.runs;
  plan.length = options.length;
  const int64_t changed = lab::collect_results(experiment, plan);
  const size_t runs = experiment.results.runs.size();
  if (runs == 0) {
    std::printf("%s: no finished runs in it or under %s; pyramoe experiment run %s makes some\n",
                name.c_str(), options.runs.c_str(), folder.c_str());
    return;
  }
  const std::string out = options.out.empty() ? folder : options.out + "/" + name;
  lab::write_report(experiment, out);
  std::printf("%s: %zu runs, %lld of them new; %s/results.md\n", name.c_str(), runs,
              static_cast<long long>(changed), out.c_str());
  print_verdicts(experiment);
  const std::vector<std::string> stale = lab::stale_runs(experiment, plan);
  if (stale.empty()) return;
  std::fprintf(stderr,
               "warning: %s: %zu runs in results.json (%s%s) have other settings than "
               "experiment.toml and its scale give now; run the experiment again\n",
               name.c_str(), stale.size(), stale.front().c_str(), stale.size() > 1 ? ", ..." : "");
}

// Compares and writes nothing, so that a committed report that has gone stale is found.
void check(const ExperimentReportOptions& options, const std::vector<std::string>& folders) {
  std::string wrong;
  for (const std::string& folder : folders) {
    lab::Experiment experiment = lab::read_experiment(folder);
    std::string out = folder;
    if (!options.out.empty()) {  // a report made elsewhere lies beside results of its own
      out = options.out + "/" + experiment.definition.name;
      experiment.results = lab::read_results(out + "/results.json");
      if (experiment.results.runs.empty()) wrong += "\n  " + out + " has no results.json with runs";
    }
    for (const std::string& line : lab::check_report(experiment, out)) wrong += "\n  " + line;
  }
  if (!wrong.empty()) {
    fail(Exit::bug, "report --check:", wrong,
         "\nrun pyramoe report on these folders, and commit what it writes");
  }
  std::printf("%zu experiment%s: every file is what results.json gives\n", folders.size(),
              folders.size() == 1 ? "" : "s");
}

}  // namespace

bool are_experiments(const std::vector<std::string>& folders) {
  const auto is_one = [](const std::string& path) { return !expand(path).empty(); };
  const auto n = std::count_if(folders.begin(), folders.end(), is_one);
  if (n > 0 && n < static_cast<int64_t>(folders.size())) {
    fail(Exit::config, "report: give either experiments or run folders, not both at once");
  }
  return n > 0;
}

void report_experiments(const ExperimentReportOptions& options) {
  const std::vector<std::string> folders = all_folders(options.folders);
  if (options.markdown) {
    std::vector<lab::Experiment> all;
    for (const std::string& folder : folders) all.push_back(lab::read_experiment(folder));
    std::fputs(lab::summary_markdown(all, "experiments").c_str(), stdout);
    return;
  }
  if (options.check) return check(options, folders);
  for (const std::string& folder : folders) report_one(options, folder);
}

}  // namespace pyramoe
