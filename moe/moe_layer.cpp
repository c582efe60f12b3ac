#include "moe/moe_layer.h"

#include <cmath>

namespace pyramoe::moe {
namespace {

// What the layer did with its tokens, for logs.
nn::LayerStat layer_stat(const Routing& r, const nn::Context& context) {
  nn::LayerStat stat;
  stat.layer = context.layer;
  stat.tokens = r.row.dim(0);
  stat.load = r.load;
  stat.choices = r.row.numel();
  stat.kept = r.offsets.rows(r.offsets.dim(0) - 1, r.offsets.dim(0));
  stat.balance_loss = r.balance_loss.value();
  stat.z_loss = r.z_loss.value();
  if (context.keep_choices) stat.expert = r.expert;
  return stat;
}

}  // namespace

MoeLayer::MoeLayer(const ModelConfig& config, const LayerPlan& plan, const nn::Build& build)
    : dispatcher_(make_dispatcher(config.dispatch)),
      router_(add_module("router", std::make_unique<Router>(config, plan, build))),
      experts_(add_module("experts",
                          std::make_unique<Experts>(plan.experts, config.dim, config.moe_hidden(),
                                                    config.init_std, config.out_std(), build))) {}

MoeLayer::Sent MoeLayer::send(const Var& x, nn::Context& context) {
  Sent sent{router_.route(x, context), {}};
  context.stats.push_back(layer_stat(sent.routing, context));
  sent.pending = dispatcher_->send(sent.routing.x, sent.routing);
  return sent;
}

nn::FfnOut MoeLayer::finish(Sent sent) {
  const Segments inbox = dispatcher_->receive(sent.pending);  // (R, D), by expert and token
  const Segments outbox = experts_.forward(inbox);            // (R, D)
  Pending home = dispatcher_->send_back(outbox, sent.routing);
  return {dispatcher_->receive_back(home), sent.routing.balance_loss, sent.routing.z_loss};
}

nn::FfnOut MoeLayer::forward(const Var& x, nn::Context& context) {
  return finish(send(x, context));
}

}  // namespace pyramoe::moe
