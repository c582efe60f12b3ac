// What a command does that runs on all ranks of a job: starting the mesh, and ending together.
#pragma once

#include <functional>

#include "dist/mesh.h"
#include "dist/runtime.h"
#include "train/run_config.h"

namespace pyramoe {

// Applies the job-wide settings of the config and makes its mesh. A refusal, the same on all ranks,
// is said by one of them. Collective.
dist::Mesh start_mesh(dist::Runtime& runtime, train::RunConfig& config);

// Runs the work. What all ranks throw together (a refusal, a stop by a signal) ends them in order;
// any other error of one rank is said and ends the whole job with its status.
void on_all_ranks(const std::function<void(dist::Runtime&)>& work);

}  // namespace pyramoe
