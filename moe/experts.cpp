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
  if (hidden_axis < 0 && g.gathers) {  // each rank of the shard adds to it for its own tokens
    place.sync = g.holders;
    place.copies = g.holders.size();
  } else if (hidden_axis < 0) {
    place.copies *= g.shard.size();
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
  shard_ = g.shard;
  gathers_ = g.gathers;
  const int64_t e = experts / g.degree, f = hidden / shard_.size();
  const auto place = [&](const Shape& global, int hidden_axis) {
    return expert_place(build, g, global, hidden_axis);
  };
  up_ = add_expert_parameter("up.weight", {e, f, dim}, build, Init::normal(std), true,
                             place({experts, hidden, dim}, 1));
  down_ = add_expert_parameter("down.weight", {e, dim, f}, build, Init::normal(out_std), true,
                               place({experts, dim, hidden}, 2));
  if (!build.bias) return;
  up_bias_ = add_expert_parameter("up.bias", {e, f}, build, Init::zeros(), false,
                                  place({experts, hidden}, 1));
  down_bias_ = add_expert_parameter("down.bias", {e, dim}, build, Init::zeros(), false,
                                    place({experts, dim}, -1));
}

Segments Experts::forward(const Segments& in) const {
  if (gathers_ && shard_.size() > 1) return gathered(in);
  if (shard_.size() == 1) {
    return {ops::grouped_mlp(in.x, in.offsets, up_, up_bias_, down_, down_bias_), in.offsets,
            in.route};
  }
  const Var x = dist::copy_to(in.x, shard_);
  const Var part = ops::grouped_mlp(x, in.offsets, up_, up_bias_, down_, Var());
  return {with_bias(dist::sum_from(part, shard_), in.offsets), in.offsets, in.route};
}

// Rows of all ranks of the shard, by (expert, rank), through this rank's stretch of the hidden
// axis.
Segments Experts::gathered(const Segments& in) const {
  const auto ranks = static_cast<size_t>(shard_.size()), e = static_cast<size_t>(up_.dim(0));
  const Device device = in.offsets.device();
  const Tensor mine = Tensor::from(segment_lengths(in.offsets), {static_cast<int64_t>(e)});
  Tensor all({static_cast<int64_t>(ranks * e)}, DType::i64);
  shard_.all_gather(mine, all);
  const std::vector<int64_t> runs(all.span<int64_t>().begin(), all.span<int64_t>().end());
  const dist::Counts rows = sum_parts(runs, ranks);  // of each rank
  std::vector<int64_t> lengths(e, 0);
  for (size_t i = 0; i < runs.size(); ++i) lengths[i % e] += runs[i];
  const Tensor offsets = offsets_of(lengths, device);
  const Shuffle shuffle = reorder(runs, swap_outer(ranks, e, 1), device);
  const Var gathered_rows = dist::gather_rows(in.x, rows, shard_);  // (rank, expert, token)
  const int64_t total = gathered_rows.dim(0);
  const Var x = move_rows(gathered_rows, shuffle.there, total);
  const Var y = ops::grouped_mlp(x, offsets, up_, up_bias_, down_, Var());
  const Var part = move_rows(y, shuffle.back, total);
  return {with_bias(dist::sum_to_rows(part, rows, shard_), in.offsets), in.offsets, in.route};
}

// y + the bias of each row's expert: a product with a column of ones.
Var Experts::with_bias(const Var& y, const Tensor& offsets) const {
  if (!down_bias_.defined()) return y;
  const Var ones(Tensor::full({y.dim(0), 1}, y.dtype(), 1.0, kCpu).to(y.value().device()));
  const Var column = ops::reshape(down_bias_, {down_bias_.dim(0), down_bias_.dim(1), 1});
  return ops::add(y, ops::grouped_linear(ones, offsets, column, Var()));
}

}  // namespace pyramoe::moe
