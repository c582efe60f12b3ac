// From settings and the ranks there are to a mesh, or to a refusal that names what would fit.
#pragma once

#include <functional>
#include <vector>

#include "dist/mesh.h"
#include "train/run_config.h"

namespace pyramoe::train {

// Experts of every layer, 0 = dense.
std::vector<int64_t> layer_experts(const RunConfig& config);

// Collective. Fills in config.data_ranks. Throws Error(config) when the model, the batch or the
// settings do not fit the ranks, before anything is allocated.
dist::Mesh make_mesh(const dist::ProcessGroup& world, RunConfig& config);

// Rank 0 does it; an Error there is thrown on all ranks, so that none waits for what will not come.
// Collective.
void on_rank_0(const dist::ProcessGroup& world, const std::function<void()>& work);

}  // namespace pyramoe::train
