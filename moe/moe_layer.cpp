#include "moe/moe_layer.h"

#include <cmath>

#include "dist/collective_ops.h"

namespace pyramoe::moe {
namespace {

// What the layer did with its tokens, for logs.
nn::LayerStat layer_stat(const Routing& r, const nn::Context& context,
                         const dist::ProcessGroup& slice) {
  nn::LayerStat stat;
  stat.layer = context.layer;
  stat.tokens = r.row.dim(0) * slice.size();
  stat.load = r.load;
  stat.choices = r.row.numel() * slice.size();
  stat.kept = r.offsets.rows(r.offsets.dim(0) - 1, r.offsets.dim(0));
  if (slice.size() > 1) {
    stat.load = r.load.clone();
    stat.kept = stat.kept.clone();
    slice.all_reduce(stat.load);
    slice.all_reduce(stat.kept);
  }
  stat.balance_loss = r.balance_loss.value();
  stat.z_loss = r.z_loss.value();
  if (context.keep_choices) stat.expert = r.expert;
  stat.probability = r.probability;
  return stat;
}

}  // namespace

namespace {

std::unique_ptr<Dispatcher> dispatcher_for(const ModelConfig& config, const LayerPlan& plan,
                                           const nn::Build& build) {
  if (!build.mesh) return make_dispatcher(config.dispatch);
  dist::ParallelConfig parallel = build.mesh->config();
  if (config.dispatch == "einsum") parallel.dispatcher = "einsum";
  const dist::ExpertGroups& groups = build.mesh->expert(plan.experts);
  if (groups.exchange.size() > 1 || groups.gather.size() > 1)
    return make_rank_dispatcher(parallel, groups);
  return make_dispatcher(parallel.dispatcher == "einsum" ? "einsum" : config.dispatch);
}

dist::ProcessGroup slice_for(const nn::Build& build) {
  const bool sliced = build.mesh && build.mesh->config().dispatcher == "coordinated";
  return sliced ? build.mesh->tensor() : dist::ProcessGroup();
}

}  // namespace

MoeLayer::MoeLayer(const ModelConfig& config, const LayerPlan& plan, const nn::Build& build)
    : dispatcher_(dispatcher_for(config, plan, build)),
      slice_(slice_for(build)),
      router_(add_module("router", std::make_unique<Router>(config, plan, build))),
      experts_(add_module("experts",
                          std::make_unique<Experts>(plan.experts, config.dim, config.moe_hidden(),
                                                    config.init_std, config.out_std(), build))) {}

MoeLayer::Sent MoeLayer::send(const Var& x, nn::Context& context) {
  // A few tokens of decoding that do not divide are routed whole, by every rank.
  const bool slices = x.dim(0) % slice_.size() == 0;
  const dist::ProcessGroup slice = slices ? slice_ : dist::ProcessGroup();
  const Var own = dist::slice_to(x, slice, 0);
  Sent sent{router_.route(own, context), {}, slice};
  context.stats.push_back(layer_stat(sent.routing, context, slice));
  sent.pending = dispatcher_->send(sent.routing.x, sent.routing);
  return sent;
}

nn::FfnOut MoeLayer::finish(Sent sent) {
  const Segments inbox = dispatcher_->receive(sent.pending);  // (R, D), by expert and token
  const Segments outbox = experts_.forward(inbox);            // (R, D)
  Pending home = dispatcher_->send_back(outbox, sent.routing);
  const Var y = dist::gather_from(dispatcher_->receive_back(home), sent.slice, 0);
  return {y, sent.routing.balance_loss, sent.routing.z_loss};
}

nn::FfnOut MoeLayer::forward(const Var& x, nn::Context& context) {
  return finish(send(x, context));
}

}  // namespace pyramoe::moe
