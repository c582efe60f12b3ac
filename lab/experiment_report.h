// The report on an experiment: takes in the results of finished runs, and makes results.md and the
// figures from results.json alone, so that anyone can make them again, byte for byte.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "lab/experiment_table.h"
#include "lab/plan.h"

namespace pyramoe::lab {

// FOLDER/experiment.toml, the scales beside it, and FOLDER/results.json if there is one.
Experiment read_experiment(const std::string& folder);

// Adds what finished runs of this experiment left under options.runs, every seed that is there.
// Runs of other settings than the definition's stay out: their hash is another. Returns how many
// were new or changed.
int64_t collect_results(Experiment& experiment, const PlanOptions& options);

// Runs in results.json whose settings are not what the definition gives now: "cpu moe_large 2".
// Compared with newer ones they would mix two experiments.
std::vector<std::string> stale_runs(const Experiment& experiment, const PlanOptions& options);

// Name and content of results.md and figure_SCALE.svg, for the scales that are shown.
std::map<std::string, std::string> report_files(const Experiment& experiment);

// Writes results.json and the report's files into a folder, and removes figures of scales that are
// shown no more. Files that would not change are left alone.
void write_report(const Experiment& experiment, const std::string& folder);
// What in a folder differs from what results.json gives: one line a file.
std::vector<std::string> check_report(const Experiment& experiment, const std::string& folder);

// Whether a folder holds an experiment, and the experiments in a folder of several, by name.
bool is_experiment(const std::string& folder);
std::vector<std::string> experiments_in(const std::string& folder);

// The text between two marker comments of a page, e.g. <!-- verdicts --> and <!-- /verdicts -->.
// Throws Error(data) where a page does not have each marker once, in this order.
std::string block_of(const std::string& page, const std::string& marker);

}  // namespace pyramoe::lab
