// From the parts that ranks hold to logical tensors, on rank 0: for checkpoints and dumps, which
// know nothing of layouts.
#pragma once

#include <vector>

#include "dist/process_group.h"
#include "nn/checkpoint.h"

namespace pyramoe::nn {

// The whole tensors on world rank 0, an empty list elsewhere. Collective: every rank gives its
// parts under the same names in the same order. Of equal copies the lowest rank's is taken.
std::vector<NamedTensor> gather_whole(const std::vector<NamedTensor>& parts,
                                      const dist::ProcessGroup& world);

// A module's parameters and buffers as parts.
std::vector<NamedTensor> parts_of(Module& module);

}  // namespace pyramoe::nn
