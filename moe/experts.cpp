#include "moe/experts.h"

#include "autograd/ops.h"
#include "dist/collective_ops.h"
#include "moe/row_travel.h"

namespace pyramoe::moe {

using nn::Init;

namespace {

// The part of an expert parameter that this rank holds: its experts, and its stretch of the hidden
// axis (-1: the parameter has none).
nn::Placement expert_place(const nn::Build& build, const dist::ExpertGroups& g, const Shape& global,
                           int hidden_axis) {
  nn::Placement place;
  if (!build.mesh) return place;
  place.sync = g.copies;
  place.copies = g.copies.size();
  if (hidden_axis < 0) {  // each rank adds to it for its own rows
    place.sync = g.owners;
    place.copies = g.holders.size();
  }
  const int64_t shards = hidden_axis < 0 ? 1 : g.shard.size();
  if (g.degree == 1 && shards == 1) return place;
  place.box = {global, Shape(global.size(), 0)};
  place.box.begin[0] = global[0] / g.degree * g.exchange.rank();
  if (shards > 1) {
    const auto axis = static_cast<size_t>(hidden_axis);
    place.box.begin[axis] = global[axis] / shards * g.shard.rank();
  }
  return place;
}

const dist::ExpertGroups& groups_of(const nn::Build& build, int64_t experts) {
  static const dist::ExpertGroups alone;
  return build.mesh ? build.mesh->expert(experts) : alone;
}

}  // namespace

Experts::Experts(int64_t experts, int64_t dim, int64_t hidden, double std, double out_std,
                 const nn::Build& build) {
  const dist::ExpertGroups& g = groups_of(build, experts);
  gather_ = g.gather;
  equal_ = g.equal;
  const int64_t e = experts / g.degree, f = hidden / g.shard.size();
  // With sums that no layout changes, gradients are kept by the rank that sent the rows.
  const bool apart =
      build.mesh && build.mesh->config().same_on_any_layout() && g.exchange.size() > 1;
  const auto place = [&](const Shape& global, int hidden_axis, Tensor& by_source) {
    nn::Placement p = expert_place(build, g, global, hidden_axis);
    if (!apart) return p;
    Shape shape = global;
    shape[0] = e * g.exchange.size();
    const DType wide = build.dtype == DType::f64 ? DType::f64 : DType::f32;
    p.by_source = by_source = Tensor::zeros(shape, wide, build.device);
    return p;
  };
  up_ = add_expert_parameter("up.weight", {e, f, dim}, build, Init::normal(std), true,
                             place({experts, hidden, dim}, 1, by_source_.up));
  down_ = add_expert_parameter("down.weight", {e, dim, f}, build, Init::normal(out_std), true,
                               place({experts, dim, hidden}, 2, by_source_.down));
  if (!build.bias) return;
  up_bias_ = add_expert_parameter("up.bias", {e, f}, build, Init::zeros(), false,
                                  place({experts, hidden}, 1, by_source_.up_bias));
  down_bias_ = add_expert_parameter("down.bias", {e, dim}, build, Init::zeros(), false,
                                    place({experts, dim}, -1, by_source_.down_bias));
}

Segments Experts::forward(const Segments& in) const {
  if (gather_.size() > 1) return gathered(in);
  if (by_source_.up.defined()) {
    return mlp_by_source(in, {up_, up_bias_, down_, down_bias_}, by_source_);
  }
  if (equal_.size() == 1) {
    return {ops::grouped_mlp(in.x, in.offsets, up_, up_bias_, down_, down_bias_), in.offsets,
            in.route};
  }
  const Var x = dist::copy_to(in.x, equal_);
  const Var part = ops::grouped_mlp(x, in.offsets, up_, up_bias_, down_, Var());
  return {with_bias(dist::sum_from(part, equal_), in.offsets), in.offsets, in.route};
}

// Rows of all ranks to gather, by (expert, rank), through this rank's stretch of the hidden
// axis.
Segments Experts::gathered(const Segments& in) const {
  const auto ranks = static_cast<size_t>(gather_.size()), e = static_cast<size_t>(up_.dim(0));
  const Device device = in.offsets.device();
  const Tensor mine = Tensor::from(segment_lengths(in.offsets), {static_cast<int64_t>(e)});
  Tensor all({static_cast<int64_t>(ranks * e)}, DType::i64);
  gather_.all_gather(mine, all);
  const std::vector<int64_t> runs(all.span<int64_t>().begin(), all.span<int64_t>().end());
  const dist::Counts rows = sum_parts(runs, ranks);  // of each rank
  std::vector<int64_t> lengths(e, 0);
  for (size_t i = 0; i < runs.size(); ++i) lengths[i % e] += runs[i];
  const Tensor offsets = offsets_of(lengths, device);
  const Shuffle shuffle = reorder(runs, swap_outer(ranks, e, 1), device);
  const Var gathered_rows =
      dist::gather_rows(dist::copy_to(in.x, equal_), rows, gather_);  // (rank, expert, token)
  const int64_t total = gathered_rows.dim(0);
  const Var x = move_rows(gathered_rows, shuffle.there, total);
  const Var y = ops::grouped_mlp(x, offsets, up_, up_bias_, down_, Var());
  const Var part = move_rows(y, shuffle.back, total);
  const Var sum = dist::sum_from(dist::sum_to_rows(part, rows, gather_), equal_);
  return {with_bias(sum, in.offsets), in.offsets, in.route};
}

// y + the bias of each row's expert: a product with a column of ones.
Var Experts::with_bias(const Var& y, const Tensor& offsets) const {
  if (!down_bias_.defined()) return y;
  const Var ones(Tensor::full({y.dim(0), 1}, y.dtype(), 1.0, kCpu).to(y.value().device()));
  const Var column = ops::reshape(down_bias_, {down_bias_.dim(0), down_bias_.dim(1), 1});
  return ops::add(y, ops::grouped_linear(ones, offsets, column, Var()));
}

}  // namespace pyramoe::moe
