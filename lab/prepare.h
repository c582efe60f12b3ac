// The data of a scale: made by its script when something that the runs read is missing.
#pragma once

#include <string>
#include <vector>

#include "lab/plan.h"

namespace pyramoe::lab {

// What the runs read and is not there: token files and tokenizers.
std::vector<std::string> missing_data(const std::vector<PlannedRun>& runs);

// Runs the scale's script, in the current folder with $PYRAMOE naming the program, if something is
// missing. Throws Error(data) when it fails or leaves something missing.
void prepare_data(const Scale& scale, const std::vector<PlannedRun>& runs,
                  const std::string& program);

// Takes the zero-shot tasks away where their files are not there, so that the rest can run; returns
// the folder that was missed, or "".
std::string without_tasks(std::vector<PlannedRun>& runs);

}  // namespace pyramoe::lab
