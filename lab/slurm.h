// A plan as a Slurm script: one job array for each stage (runs that need others come after them),
// with what every run costs. Text only; nothing is started.
#pragma once

#include <string>
#include <vector>

#include "lab/plan.h"

namespace pyramoe::lab {

// folders: as on the command line, for the tasks to ask for their configs.
// Throws Error(config) where the scale has no [slurm] numbers.
std::string slurm_script(const Scale& scale, const std::vector<std::string>& folders,
                         const std::vector<PlannedRun>& runs);

}  // namespace pyramoe::lab
