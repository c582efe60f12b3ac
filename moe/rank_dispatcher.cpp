// Experts on several ranks: tokens travel there and back by all-to-all.
//
// Rows leave sorted by (expert, token), arrive by (source, expert, token), and are put in (expert,
// global token) order: the order of one rank that had all the tokens. So experts compute the same
// bits however the rows came. The hierarchical form goes through the ranks of the node first, one
// for each place, then between ranks of one place: G + p / G messages instead of p.
#include <numeric>

#include "autograd/ops.h"
#include "core/kernels/moe.h"
#include "moe/dispatch_ops.h"
#include "moe/dispatcher.h"
#include "moe/row_travel.h"

namespace pyramoe::moe {

// How the rows of one forward pass went, for their way back.
struct Route {
  dist::Counts send, recv;  // of the all-to-all; inside the node where there are two
  dist::Counts send_between, recv_between;
  Shuffle outbound, middle, inbound;  // before the first, between, after the last all-to-all
  Tensor row;                         // (N, k): where each choice left, and comes home
  int64_t rows = 0;                   // that this rank's experts get
  Tensor by_source;                   // (experts x ranks + 1) i32: rows by (expert, source)
};

namespace {

using dist::Counts;

int64_t total(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// Rows per expert of this rank, from runs ordered by (source, expert).
std::vector<int64_t> by_expert(const std::vector<int64_t>& runs, size_t experts) {
  std::vector<int64_t> sums(experts, 0);
  for (size_t i = 0; i < runs.size(); ++i) sums[i % experts] += runs[i];
  return sums;
}

// Offsets of runs (source, expert) in the order (expert, source).
Tensor offsets_in_order(const std::vector<int64_t>& runs, const std::vector<size_t>& order,
                        Device device) {
  std::vector<int64_t> lengths;
  for (const size_t run : order) lengths.push_back(runs[run]);
  return offsets_of(lengths, device);
}

class FlatDispatcher : public Dispatcher {
 public:
  FlatDispatcher(const dist::ExpertGroups& groups, bool blocks)
      : group_(groups.exchange), blocks_(blocks) {}

  Pending send(const Var& x, const Routing& r) const override {
    const auto ranks = static_cast<size_t>(group_.size());
    const std::vector<int64_t> lengths = segment_lengths(r.offsets);  // by expert of all ranks
    const size_t own = lengths.size() / ranks;
    const int64_t width = blocks_ ? r.block_rows : 0;
    const Device device = x.value().device();
    auto route = std::make_shared<Route>();
    route->row = r.row;
    if (width > 0) {
      route->row = Tensor(r.row.shape(), DType::i32, device);
      kernels::padded_slots(r.expert, r.row, r.offsets, width, route->row);
      route->send = Counts(ranks, static_cast<int64_t>(own) * width);
    } else {
      route->send = sum_parts(lengths, ranks);
    }
    const std::vector<int64_t> runs = exchange_counts(lengths, group_);  // (source, expert)
    const std::vector<size_t> order = swap_outer(ranks, own, 1);
    route->recv = width > 0 ? route->send : sum_parts(runs, ranks);
    route->inbound = width > 0 ? compact(runs, order, width, device) : reorder(runs, order, device);
    route->by_source = offsets_in_order(runs, order, device);
    route->rows = total(runs);
    Pending pending;
    const Var out = move_rows(x, route->row, total(route->send));
    pending.rows = dist::start_all_to_all(out, route->send, route->recv, group_);
    pending.offsets = offsets_of(by_expert(runs, own), device);
    pending.route = route;
    return pending;
  }

  Segments receive(Pending& pending) const override {
    const Route& route = *pending.route;
    const Var arrived = dist::wait(pending.rows);  // (source, expert, token)
    return {move_rows(arrived, route.inbound.there, route.rows), pending.offsets, pending.route,
            route.by_source};
  }

  Pending send_back(const Segments& y, const Routing& r) const override {
    const Route& route = *y.route;
    const Var out = move_rows(y.x, route.inbound.back, total(route.recv));
    Pending pending;
    pending.rows = dist::start_all_to_all(out, route.recv, route.send, group_);
    pending.route = y.route;
    pending.weight = r.weight;
    return pending;
  }

  Var receive_back(Pending& pending) const override {
    return ops::from_segments(dist::wait(pending.rows), pending.weight, pending.route->row);
  }

 private:
  dist::ProcessGroup group_;
  bool blocks_;
};

class HierarchicalDispatcher : public Dispatcher {
 public:
  explicit HierarchicalDispatcher(const dist::ExpertGroups& groups)
      : inside_(groups.inside), between_(groups.between) {}

  Pending send(const Var& x, const Routing& r) const override {
    const auto places = static_cast<size_t>(inside_.size());
    const auto nodes = static_cast<size_t>(between_.size());
    const std::vector<int64_t> lengths = segment_lengths(r.offsets);  // (node, place, expert)
    const size_t own = lengths.size() / (places * nodes);
    const Device device = x.value().device();
    auto route = std::make_shared<Route>();
    route->row = r.row;
    const std::vector<size_t> leave = swap_outer(nodes, places, own);
    route->outbound = reorder(lengths, leave, device);  // (place, node, expert)
    std::vector<int64_t> leaving;
    for (const size_t run : leave) leaving.push_back(lengths[run]);
    const std::vector<int64_t> near = exchange_counts(leaving, inside_);  // (from, node, expert)
    route->send = sum_parts(leaving, places);
    route->recv = sum_parts(near, places);
    const std::vector<size_t> turn = swap_outer(places, nodes, own);
    route->middle = reorder(near, turn, device);  // (node, from, expert)
    std::vector<int64_t> turned;
    for (const size_t run : turn) turned.push_back(near[run]);
    const std::vector<int64_t> far = exchange_counts(turned, between_);  // (node, from, expert)
    route->send_between = sum_parts(turned, nodes);
    route->recv_between = sum_parts(far, nodes);
    const std::vector<size_t> order = swap_outer(nodes * places, own, 1);
    route->inbound = reorder(far, order, device);
    route->by_source = offsets_in_order(far, order, device);
    route->rows = total(far);
    Pending pending;
    const int64_t rows = total(lengths);
    const Var out = move_rows(move_rows(x, r.row, rows), route->outbound.there, rows);
    pending.rows = dist::start_all_to_all(out, route->send, route->recv, inside_);
    pending.offsets = offsets_of(by_expert(far, own), device);
    pending.route = route;
    return pending;
  }

  Segments receive(Pending& pending) const override {
    const Route& route = *pending.route;
    const Var here = move_rows(dist::wait(pending.rows), route.middle.there, total(route.recv));
    const Var arrived = dist::all_to_all(here, route.send_between, route.recv_between, between_);
    return {move_rows(arrived, route.inbound.there, route.rows), pending.offsets, pending.route,
            route.by_source};
  }

  Pending send_back(const Segments& y, const Routing& r) const override {
    const Route& route = *y.route;
    const Var out = move_rows(y.x, route.inbound.back, route.rows);
    const Var near = dist::all_to_all(out, route.recv_between, route.send_between, between_);
    Pending pending;
    pending.rows = dist::start_all_to_all(move_rows(near, route.middle.back, total(route.recv)),
                                          route.recv, route.send, inside_);
    pending.route = y.route;
    pending.weight = r.weight;
    return pending;
  }

  Var receive_back(Pending& pending) const override {
    const Route& route = *pending.route;
    const Var home = dist::wait(pending.rows);
    return ops::from_segments(move_rows(home, route.outbound.back, total(route.send)),
                              pending.weight, route.row);
  }

 private:
  dist::ProcessGroup inside_, between_;
};

// The baseline: one-hot products into equally many slots an expert, equal parts on the wire, and
// experts that multiply the empty slots too.
class EinsumRankDispatcher : public Dispatcher {
 public:
  explicit EinsumRankDispatcher(const dist::ExpertGroups& groups) : group_(groups.exchange) {}

  Pending send(const Var& x, const Routing& r) const override {
    const auto ranks = static_cast<size_t>(group_.size());
    Tensor longest = Tensor::from(std::vector<int64_t>{longest_segment(r)}, {1});
    group_.all_reduce(longest, dist::Reduce::max);
    const EinsumSlots slots = einsum_slots(r, longest.data<int64_t>()[0]);
    const int64_t experts = r.offsets.dim(0) - 1, own = experts / group_.size();
    const int64_t width = slots.total / experts;
    const Device device = x.value().device();
    auto route = std::make_shared<Route>();
    route->row = slots.slot;
    route->send = route->recv = Counts(ranks, own * width);
    const std::vector<int64_t> runs(ranks * static_cast<size_t>(own), width);
    route->inbound = reorder(runs, swap_outer(ranks, static_cast<size_t>(own), 1), device);
    route->rows = slots.total;
    Pending pending;
    const Var out = ops::einsum_dispatch(x, slots.slot, slots.total);
    pending.rows = dist::start_all_to_all(out, route->send, route->recv, group_);
    pending.offsets = offsets_of(by_expert(runs, static_cast<size_t>(own)), device);
    pending.route = route;
    return pending;
  }

  Segments receive(Pending& pending) const override {
    const Route& route = *pending.route;
    return {move_rows(dist::wait(pending.rows), route.inbound.there, route.rows), pending.offsets,
            pending.route};
  }

  Pending send_back(const Segments& y, const Routing& r) const override {
    const Route& route = *y.route;
    Pending pending;
    pending.rows = dist::start_all_to_all(move_rows(y.x, route.inbound.back, route.rows),
                                          route.recv, route.send, group_);
    pending.route = y.route;
    pending.weight = r.weight;
    return pending;
  }

  Var receive_back(Pending& pending) const override {
    return ops::einsum_combine(dist::wait(pending.rows), pending.weight, pending.route->row);
  }

 private:
  dist::ProcessGroup group_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_rank_dispatcher(const dist::ParallelConfig& config,
                                                 const dist::ExpertGroups& groups) {
  if (config.dispatcher == "einsum") return std::make_unique<EinsumRankDispatcher>(groups);
  if (config.dispatcher == "hierarchical" && groups.hierarchical) {
    return std::make_unique<HierarchicalDispatcher>(groups);
  }
  return std::make_unique<FlatDispatcher>(groups, config.blocks);
}

}  // namespace pyramoe::moe
