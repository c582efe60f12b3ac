// The MoE layer: route, send tokens to their experts, run the experts, bring the results home.
#pragma once

#include "moe/dispatcher.h"
#include "moe/experts.h"
#include "moe/router.h"
#include "nn/feed_forward.h"

namespace pyramoe::moe {

class MoeLayer : public nn::FeedForward {
 public:
  MoeLayer(const ModelConfig& config, const LayerPlan& plan, const nn::Build& build);
  nn::FfnOut forward(const Var& x, nn::Context& context) override;

  // The two halves of forward, for work that does not depend on routing to be recorded between
  // them: it runs while tokens travel.
  struct Sent {
    Routing routing;
    Pending pending;
    dist::ProcessGroup slice;  // among whose ranks the tokens are cut
  };
  Sent send(const Var& x, nn::Context& context);
  nn::FfnOut finish(Sent sent);

  const Router& router() const { return router_; }
  Router& router() { return router_; }

 private:
  std::unique_ptr<Dispatcher> dispatcher_;
  dist::ProcessGroup slice_;  // tensor ranks that each take a part of the tokens
  Router& router_;
  Experts& experts_;
};

}  // namespace pyramoe::moe
