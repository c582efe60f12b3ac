// From what a run left in its folder to its RunResult: config, metrics, curves, and the numbers of
// later evaluations.
#pragma once

#include <map>
#include <string>

#include "lab/plan.h"
#include "lab/results.h"

namespace pyramoe::lab {

// The program's commit in the current folder, "+" at the end where its sources are changed; else
// $PYRAMOE_COMMIT; else "unknown".
std::string program_commit();
// "cpu", or what the first GPU of this machine is called.
std::string device_name(const std::string& device);

// Whether `pyramoe train` came to the end in that folder: its last step is there and validated.
bool training_finished(const PlannedRun& run);
RunResult collect_run(const PlannedRun& run, const std::string& commit, const std::string& device);

// The result of an arm that evaluates another's run: what that run's model is, and the numbers of
// the evaluation.
RunResult collect_evaluation(const PlannedRun& run, const RunResult& source,
                             const std::string& commit, const std::string& json_file);

// acc.TASK of each task in the output of `pyramoe eval --tasks ... --json`.
std::map<std::string, double> task_metrics(const std::string& json_file);
// tokens_per_s, step_ms and peak_bytes of `pyramoe bench train ... --json`.
std::map<std::string, double> bench_metrics(const std::string& json_file);

// RUN/result.json; false where there is none, or one of another config.
bool read_run_result(const PlannedRun& run, RunResult& result);
void write_run_result(const PlannedRun& run, const RunResult& result);

}  // namespace pyramoe::lab
