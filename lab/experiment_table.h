// What an experiment found, as Markdown: its results.md, and the one table over all experiments.
// Pure functions of definition, scales and results: the same input gives the same bytes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "lab/definition.h"
#include "lab/results.h"
#include "lab/verdict.h"

namespace pyramoe::lab {

// An experiment with all that its report is made from.
struct Experiment {
  Definition definition;
  std::map<std::string, Scale> scales;  // by name: those that exist
  Results results;
};

// Scales with results, largest first. smoke, whose models learn nothing, only where it is alone.
std::vector<std::string> shown_scales(const Experiment& experiment);
// Arms with results at a scale, in the order of the definition.
std::vector<const Arm*> shown_arms(const Experiment& experiment, const std::string& scale);
// The label of an arm at a scale, words filled in.
std::string label_of(const Experiment& experiment, const std::string& scale,
                     const std::string& arm);

struct JudgedClaim {
  const Claim* claim;
  std::string text;  // words filled in
  Verdict verdict;
  std::string numbers;  // verdict_text
};
std::vector<JudgedClaim> judge_all(const Experiment& experiment, const std::string& scale);

// results.md
std::string results_markdown(const Experiment& experiment);
// A row an experiment: its question, and how many claims hold at each scale.
//   folder  where the folders lie, as seen from the page that shows the table
std::string summary_markdown(const std::vector<Experiment>& experiments, const std::string& folder);

}  // namespace pyramoe::lab
