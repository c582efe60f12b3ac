// The half of `pyramoe report` that speaks of experiments: folders with experiment.toml.
#pragma once

#include <string>
#include <vector>

namespace pyramoe {

struct ExperimentReportOptions {
  std::vector<std::string> folders;
  std::string runs = "runs/experiments";
  std::string out;  // empty: each folder itself; else OUT/NAME
  double length = 1;
  bool check = false, markdown = false;
};

// Whether all folders are experiments or hold some. Throws Error(config) where only some are.
bool are_experiments(const std::vector<std::string>& folders);
void report_experiments(const ExperimentReportOptions& options);

}  // namespace pyramoe
