// Runs what is planned: children of this program, several at a time, each in its own folder. One
// idea: the run folders are the only state, so any end of this program, kill -9 included, is a
// place from which the next one goes on.
#pragma once

#include <string>
#include <vector>

#include "lab/plan.h"

namespace pyramoe::lab {

struct RunnerOptions {
  std::string program = "/proc/self/exe";
  std::string device = "cpu";  // cpu or cuda
  int jobs = 0;                // at a time; 0 = a core each, or a GPU each
  bool keep_weights = false;
  double minutes =
      0;  // ends as if told to after these; trains nothing that would take longer. 0 = no end
};

// Trains, evaluates and times everything that is not done yet; returns the status of the first run
// that failed, or 0. Throws Error(preempted) after SIGTERM, SIGUSR1 or SIGINT, when all children
// have ended, and Error(config) where another runner works in the same folder.
int run_planned(const std::vector<PlannedRun>& runs, const RunnerOptions& options);

}  // namespace pyramoe::lab
