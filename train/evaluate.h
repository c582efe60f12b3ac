// Loss over a validation set, overall and per domain.
#pragma once

#include "data/batches.h"
#include "nn/gpt.h"
#include "train/metrics.h"

namespace pyramoe::train {

// Mean loss over every window of the set, in nats. Tokens are never dropped and nothing is random,
// so the result does not depend on how windows are batched. Stops early (with an Error(preempted))
// when a stop is requested.
EvalResult evaluate(nn::Gpt& model, const data::ValidationSet& set);

}  // namespace pyramoe::train
