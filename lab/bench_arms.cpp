#include "lab/bench_arms.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>

#include "core/file.h"
#include "lab/child.h"
#include "lab/collect.h"
#include "lab/places.h"
#include "train/progress.h"
#include "train/signals.h"

namespace pyramoe::lab {
namespace {

constexpr size_t kTimings = 3;  // of an arm, at least

using Metrics = std::map<std::string, double>;

// Units that are timed, by the hash of their arm; each with its timings so far.
struct Timed {
  size_t unit = 0;
  std::vector<Metrics> timings;
};

std::vector<std::vector<Timed>> arms_to_time(const Queue& queue) {
  std::map<std::string, size_t> place;
  std::vector<std::vector<Timed>> arms;
  for (size_t i = 0; i < queue.units().size(); ++i) {
    const Unit& unit = queue.units()[i];
    if (!unit.bench || unit.bench_done || !unit.trained || !unit.run.reuse.empty()) continue;
    const auto [at, is_new] = place.try_emplace(unit.run.hash, arms.size());
    if (is_new) arms.emplace_back();
    arms[at->second].push_back({i, {}});
  }
  return arms;
}

Metrics medians(const std::vector<Metrics>& timings) {
  Metrics out;
  for (const auto& [key, unused] : timings[0]) {
    std::vector<double> values;
    for (const Metrics& one : timings) values.push_back(one.at(key));
    std::sort(values.begin(), values.end());
    const size_t middle = values.size() / 2;
    out[key] = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  }
  return out;
}

// Waits for the child; a signal to this program ends it.
int wait_for(Child& child) {
  while (child.running()) {
    if (train::stop_requested()) child.send(SIGTERM);
    ::usleep(5000);
  }
  return child.status();
}

int time_once(const PlannedRun& run, const BenchOptions& options, Metrics& metrics) {
  make_folders(run.folder);
  const std::string output = run.folder + "/bench.json";
  const int64_t steps = std::clamp<int64_t>(run.config.train.steps / 10, 3, 30);
  Child child(
      {options.program, "bench", "train", write_request(run, false), "--steps",
       std::to_string(steps), "--json", "--no-limits", "--device", options.device},
      {output, run.folder + "/log.txt", {{"PYRAMOE_THREADS", std::to_string(options.threads)}}});
  const int status = wait_for(child);
  if (status == 0) metrics = bench_metrics(output);
  return status;
}

void store(Queue& queue, Screen& screen, const Timed& timed) {
  Unit& unit = queue.units()[timed.unit];
  RunResult result;
  read_run_result(unit.run, result);
  for (const auto& [key, value] : medians(timed.timings)) result.metrics[key] = value;
  write_run_result(unit.run, result);
  unit.bench_done = true;
  screen.say(fmt::format("bench      {}: {} tokens/s, {:.2f} ms a step", name_of(unit.run),
                         train::with_commas(std::llround(result.metrics["bench.tokens_per_s"])),
                         result.metrics["bench.step_ms"]));
}

}  // namespace

int bench_arms(Queue& queue, Screen& screen, const BenchOptions& options) {
  int first_failure = 0;
  std::vector<std::vector<Timed>> arms = arms_to_time(queue);
  size_t rounds = arms.empty() ? 0 : kTimings;
  for (const std::vector<Timed>& seeds : arms) rounds = std::max(rounds, seeds.size());
  for (size_t round = 0; round < rounds; ++round) {
    for (std::vector<Timed>& seeds : arms) {
      if (train::stop_requested()) return first_failure;
      Timed& timed = seeds[round % seeds.size()];
      Unit& unit = queue.units()[timed.unit];
      if (unit.failed) continue;
      Metrics metrics;
      const int status = time_once(unit.run, options, metrics);
      if (train::stop_requested()) return first_failure;
      if (status == 0) {
        timed.timings.push_back(metrics);
      } else {
        unit.failed = status;
        if (first_failure == 0) first_failure = status;
        screen.failed(unit, status, "");
      }
      const bool last = round + seeds.size() >= rounds;
      if (last && !unit.failed) store(queue, screen, timed);
    }
  }
  return first_failure;
}

}  // namespace pyramoe::lab
