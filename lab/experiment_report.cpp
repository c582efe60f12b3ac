#include "lab/experiment_report.h"

#include <algorithm>
#include <charconv>

#include "core/file.h"
#include "core/text.h"
#include "lab/experiment_figure.h"

namespace pyramoe::lab {
namespace {

// The seed of "HASH-SEED", 0 where a name is not that.
int64_t seed_of(const std::string& name, const std::string& hash) {
  if (name.rfind(hash + "-", 0) != 0) return 0;
  int64_t seed = 0;
  const char* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + hash.size() + 1, end, seed);
  return parsed.ec == std::errc() && parsed.ptr == end ? seed : 0;
}

const RunResult* find_same(const Results& results, const RunResult& run) {
  for (const RunResult& other : results.runs) {
    if (other.scale == run.scale && other.arm == run.arm && other.seed == run.seed) return &other;
  }
  return nullptr;
}

bool same(const RunResult& a, const RunResult& b) {
  return results_text({{a}}) == results_text({{b}});
}

int64_t collect_run(Experiment& e, const PlannedRun& plan, const std::string& folder,
                    int64_t seed) {
  const Results found = read_results(folder + "/result.json");
  if (found.runs.size() != 1 || found.runs[0].config_hash != plan.hash) return 0;
  RunResult run = found.runs[0];
  run.arm = plan.arm;  // the run may have been trained for another experiment's arm
  run.scale = plan.scale;
  run.seed = seed;
  const RunResult* old = find_same(e.results, run);
  if (old && same(*old, run)) return 0;
  add_result(e.results, std::move(run));
  return 1;
}

bool is_figure(const std::string& name) {
  return name.rfind("figure_", 0) == 0 && name.size() > 11 &&
         name.compare(name.size() - 4, 4, ".svg") == 0;
}

std::map<std::string, std::string> all_files(const Experiment& e) {
  std::map<std::string, std::string> files = report_files(e);
  files["results.json"] = results_text(e.results);
  return files;
}

}  // namespace

bool is_experiment(const std::string& folder) { return path_exists(folder + "/experiment.toml"); }

std::vector<std::string> experiments_in(const std::string& folder) {
  std::vector<std::string> out;
  for (const std::string& name : list_folder(folder)) {
    if (is_experiment(folder + "/" + name)) out.push_back(folder + "/" + name);
  }
  return out;
}

Experiment read_experiment(const std::string& folder) {
  Experiment out;
  out.definition = read_definition(folder);
  for (const std::string& name : scale_names(folder)) {
    out.scales.emplace(name, read_scale(folder, name));
  }
  out.results = read_results(folder + "/results.json");
  return out;
}

int64_t collect_results(Experiment& experiment, const PlanOptions& options) {
  int64_t changed = 0;
  for (const auto& [name, scale] : experiment.scales) {
    const std::string place = options.runs + "/" + name;
    if (scale.dry || !is_folder(place)) continue;
    PlanOptions one_seed = options;
    one_seed.seeds = 1;  // a hash is the same for every seed
    const std::vector<std::string> folders = list_folder(place);
    for (const PlannedRun& plan : plan_runs(experiment.definition, scale, one_seed)) {
      for (const std::string& folder : folders) {
        const int64_t seed = seed_of(folder, plan.hash);
        if (seed > 0) changed += collect_run(experiment, plan, place + "/" + folder, seed);
      }
    }
  }
  return changed;
}

std::vector<std::string> stale_runs(const Experiment& experiment, const PlanOptions& options) {
  std::vector<std::string> stale;
  for (const auto& [name, scale] : experiment.scales) {
    const auto is_here = [&, at = name](const RunResult& run) { return run.scale == at; };
    const std::vector<RunResult>& runs = experiment.results.runs;
    if (scale.dry || std::none_of(runs.begin(), runs.end(), is_here)) continue;
    PlanOptions one_seed = options;
    one_seed.seeds = 1;
    std::map<std::string, std::string> hashes;
    for (const PlannedRun& plan : plan_runs(experiment.definition, scale, one_seed)) {
      hashes[plan.arm] = plan.hash;
    }
    for (const RunResult& run : runs) {
      const auto now = hashes.find(run.arm);
      if (run.scale != name || now == hashes.end() || now->second == run.config_hash) continue;
      stale.push_back(cat(run.scale, " ", run.arm, " ", run.seed));
    }
  }
  return stale;
}

std::map<std::string, std::string> report_files(const Experiment& experiment) {
  std::map<std::string, std::string> files;
  if (experiment.results.runs.empty()) return files;
  files["results.md"] = results_markdown(experiment);
  for (const std::string& scale : shown_scales(experiment)) {
    files["figure_" + scale + ".svg"] = draw_figure(experiment, scale);
  }
  return files;
}

void write_report(const Experiment& experiment, const std::string& folder) {
  make_folders(folder, Exit::data);
  const std::map<std::string, std::string> files = all_files(experiment);
  for (const auto& [name, text] : files) {
    const std::string path = folder + "/" + name;
    if (!path_exists(path) || read_file(path) != text) write_file(path, text, Exit::data);
  }
  for (const std::string& name : list_folder(folder)) {
    if (is_figure(name) && files.count(name) == 0) remove_tree(folder + "/" + name, Exit::data);
  }
}

std::vector<std::string> check_report(const Experiment& experiment, const std::string& folder) {
  std::vector<std::string> wrong;
  if (experiment.results.runs.empty()) return wrong;
  const std::map<std::string, std::string> files = all_files(experiment);
  for (const auto& [name, text] : files) {
    const std::string path = folder + "/" + name;
    if (!path_exists(path)) {
      wrong.push_back(path + " is missing");
    } else if (read_file(path) != text) {
      wrong.push_back(path + " is not what results.json gives");
    }
  }
  for (const std::string& name : list_folder(folder)) {
    if (is_figure(name) && files.count(name) == 0) {
      wrong.push_back(folder + "/" + name + " belongs to no shown scale");
    }
  }
  return wrong;
}

std::string block_of(const std::string& page, const std::string& marker) {
  const std::string open = "<!-- " + marker + " -->\n", close = "<!-- /" + marker + " -->";
  const size_t begin = page.find(open), end = page.find(close);
  if (begin == std::string::npos || end == std::string::npos || end < begin ||
      page.find(open, begin + 1) != std::string::npos) {
    fail(Exit::data, "the page needs ", quoted(open.substr(0, open.size() - 1)), " and ",
         quoted(close), ", once and in this order");
  }
  return page.substr(begin + open.size(), end - begin - open.size());
}

}  // namespace pyramoe::lab
