// The routing observatory: one HTML page about who serves which token in a run, while it trained
// and in its newest checkpoint. The page needs no network and no script for its main parts.
//
// Two sources, one idea each: routing.jsonl sums up every training step (train/routing_record.h);
// what needs tokens (who follows whom, domains, text) is worked out here from the checkpoint and
// the validation data, so that training pays nothing for it. Read routing_observe.h and
// routing_parts.h next.
#pragma once

#include <string>

namespace pyramoe::report {

struct RoutingOptions {
  int64_t tokens = 4096;  // of each domain's validation part that are looked at
};

// The page of a run folder. What a run does not have (yet) is named on the page. Throws
// Error(config) for a model without experts, Error(checkpoint) where there is no run.
std::string routing_page(const std::string& run, const RoutingOptions& options = {});

}  // namespace pyramoe::report
