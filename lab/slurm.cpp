#include "lab/slurm.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "lab/screen.h"
#include "train/progress.h"

namespace pyramoe::lab {
namespace {

constexpr double kSlack = 1.5;  // of the time limit over the estimate: start, validation, saves

struct Machine {
  double nodes, gpus_per_node, tflops, dollars;
  double gpus() const { return nodes * gpus_per_node; }
  double hours(double flops) const { return flops / (tflops * 1e12 * gpus()) / 3600; }
  double cost(double flops) const { return hours(flops) * gpus() * dollars; }
};

Machine machine_of(const Scale& scale) {
  const auto get = [&](const char* key) {
    const auto found = scale.slurm.find(key);
    if (found == scale.slurm.end()) {
      fail(Exit::config, "scales/", scale.name, ".toml has no ", key,
           " under [slurm], which a job array needs");
    }
    return found->second;
  };
  return {get("nodes"), get("gpus_per_node"), get("tflops"), get("dollars_per_gpu_hour")};
}

// Runs that differ, those that train, by how long their longest chain of needs is.
std::vector<std::vector<const PlannedRun*>> stages_of(const std::vector<PlannedRun>& runs) {
  std::map<std::string, size_t> depth;
  std::vector<std::vector<const PlannedRun*>> stages;
  for (const PlannedRun& run : runs) depth.emplace(run.folder, 0);
  for (bool changed = true; changed;) {
    changed = false;
    for (const PlannedRun& run : runs) {
      for (const std::string& need : run.needs) {
        const size_t least = depth[need] + 1;
        changed |= depth[run.folder] < least;
        depth[run.folder] = std::max(depth[run.folder], least);
      }
    }
  }
  std::set<std::string> seen;
  for (const PlannedRun& run : runs) {
    if (!run.reuse.empty() || !seen.insert(run.folder).second) continue;
    const size_t stage = depth[run.folder];
    if (stages.size() <= stage) stages.resize(stage + 1);
    stages[stage].push_back(&run);
  }
  return stages;
}

std::string table_of(const std::vector<const PlannedRun*>& runs, const Machine& machine) {
  std::string text =
      fmt::format("# {:>4}  {:<36} {:>4} {:>19} {:>17} {:>5} {:>5} {:>9} {:>12}\n", "task", "arm",
                  "seed", "parameters", "tokens", "nodes", "GPUs", "hours", "dollars");
  for (size_t i = 0; i < runs.size(); ++i) {
    const PlannedRun& run = *runs[i];
    text += fmt::format(
        "# {:>4}  {:<36} {:>4} {:>19} {:>17} {:>5.0f} {:>5.0f} {:>9.1f} {:>12}\n", i,
        run.experiment + "/" + run.arm, run.seed, train::with_commas(run.cost.params_total),
        train::with_commas(std::llround(run.tokens)), machine.nodes, machine.gpus(),
        machine.hours(run.flops), train::with_commas(std::llround(machine.cost(run.flops))));
  }
  return text;
}

// The job array of a stage; each task makes its config and trains with it.
std::string array_of(const std::vector<const PlannedRun*>& runs, size_t stage,
                     const Machine& machine) {
  double longest = 0;
  for (const PlannedRun* run : runs) longest = std::max(longest, machine.hours(run->flops));
  const auto minutes = static_cast<int64_t>(std::ceil(longest * 60 * kSlack)) + 10;
  std::string text = fmt::format(
      "stage{}=$(sbatch --parsable --requeue --signal=B:TERM@60 --open-mode=append {}\\\n"
      "  --job-name=pyramoe --array=0-{} --nodes={:.0f} --gpus-per-node={:.0f} "
      "--ntasks-per-node={:.0f} --time={}:{:02}:00 <<'EOF'\n"
      "#!/usr/bin/env bash\n"
      "set -uo pipefail\n"
      "program=${{PYRAMOE:-build/pyramoe}}\n"
      "case $SLURM_ARRAY_TASK_ID in\n",
      stage + 1, stage == 0 ? "" : fmt::format("--dependency=afterok:$stage{} ", stage),
      runs.size() - 1, machine.nodes, machine.gpus_per_node, machine.gpus_per_node, minutes / 60,
      minutes % 60);
  for (size_t i = 0; i < runs.size(); ++i) {
    text += fmt::format("  {}) run={} what='{} {} {}' ;;\n", i, runs[i]->folder,
                        runs[i]->experiment, runs[i]->arm, runs[i]->seed);
  }
  return text +
         "esac\n"
         "read -r experiment arm seed <<<\"$what\"\n"
         "mkdir -p \"$run\"\n"
         "\"$program\" experiment config \"$folder/$experiment\" --scale \"$scale\" --arm \"$arm\" "
         "--seed \"$seed\" >\"$run/request.toml\" || exit 2\n"
         "srun --mpi=pmix --kill-on-bad-exit=1 \"$program\" train \"$run/request.toml\" &\n"
         "step=$!\n"
         "trap 'kill -USR1 \"$step\"' TERM  # the run saves and ends with status 75\n"
         "while :; do\n"
         "  wait \"$step\"; code=$?\n"
         "  kill -0 \"$step\" 2>/dev/null || break\n"
         "done\n"
         "[ \"$code\" -eq 75 ] && scontrol requeue \"$SLURM_JOB_ID\"\n"
         "exit \"$code\"\n"
         "EOF\n"
         ")\n";
}

}  // namespace

std::string slurm_script(const Scale& scale, const std::vector<std::string>& folders,
                         const std::vector<PlannedRun>& runs) {
  const Machine machine = machine_of(scale);
  const std::vector<std::vector<const PlannedRun*>> stages = stages_of(runs);
  double flops = 0;
  size_t count = 0;
  for (const auto& stage : stages) {
    for (const PlannedRun* run : stage) flops += run->flops;
    count += stage.size();
  }
  const double gpu_hours = machine.hours(flops) * machine.gpus();
  std::string text = fmt::format(
      "#!/usr/bin/env bash\n"
      "# {} runs of scale {} in {} stages: {} GPU-hours at {:g} TFLOP/s a GPU, {} dollars at {:g} "
      "a\n"
      "# GPU-hour. Run this script on a cluster to submit them; printing it has started nothing.\n"
      "set -euo pipefail\n"
      "export scale={} folder={}\n",
      count, scale.name, stages.size(), train::with_commas(std::llround(gpu_hours)), machine.tflops,
      train::with_commas(std::llround(machine.cost(flops))), machine.dollars, scale.name,
      folders.empty() ? "experiments" : folders[0].substr(0, folders[0].rfind('/')));
  for (size_t i = 0; i < stages.size(); ++i) {
    text += fmt::format("\n# Stage {}\n", i + 1) + table_of(stages[i], machine) +
            array_of(stages[i], i, machine);
  }
  std::string all;
  for (const std::string& folder : folders) all += " " + folder;
  return text + fmt::format(
                    "\necho \"submitted; when all have ended:\"\n"
                    "echo \"  build/pyramoe experiment run{} --scale {} --collect\"\n",
                    all, scale.name);
}

}  // namespace pyramoe::lab
