// A model of slower links than this machine's: a message is delivered no earlier than
// send + alpha + bytes / beta, one at a time per link, each rank having one link to its own node
// and one to the other nodes. Ranks that wait sleep, so that those that share cores do
// not slow each other. For measuring algorithms, not for running them.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "dist/process_group.h"

namespace pyramoe::dist {

struct LinkSpeed {
  double alpha = 0;  // seconds a message
  double beta = 0;   // bytes a second; 0 = without limit
};
struct LinkModel {
  std::array<LinkSpeed, 2> speed;  // by Link
};

// "inside alpha us, inside GB/s, between alpha us, between GB/s", e.g. "2,100,20,10".
// Throws Error(config).
LinkModel parse_link_model(const std::string& text);

// The group's channel with messages delayed so.
std::shared_ptr<Channel> model_links(const ProcessGroup& group, const LinkModel& model);

}  // namespace pyramoe::dist
