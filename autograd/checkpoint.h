// Activation checkpointing: keep a function's inputs, not its intermediates, and run it again in
// the backward pass (Chen et al., 2016).
#pragma once

#include "autograd/var.h"

namespace pyramoe {

using VarFn = std::function<Vars(const Vars&)>;

// f(x), recomputed when its gradient is needed. f must be a pure function of its arguments, the
// leaves it captures (their gradients are added to as usual) and counter-based random numbers;
// side results it records should be recorded on the first pass only (`recomputing()` tells).
Vars checkpoint(const VarFn& f, const Vars& x);

// True while a checkpointed function runs for the second time.
bool recomputing();

}  // namespace pyramoe
