#include "dist/mesh.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

namespace pyramoe::dist {
namespace {

// The world's data and tensor degree, checked.
struct Degrees {
  int64_t data, tensor;
};

Degrees find_degrees(const ParallelConfig& config, int64_t ranks) {
  const int64_t t = config.tensor;
  if (ranks % t != 0) {
    fail(Exit::config, "parallel.tensor = ", t, " does not divide the ", ranks, " rank",
         ranks == 1 ? "" : "s", " of this job; use ", nearest_divisors(ranks, t),
         ", or start ranks with mpirun -np ", (ranks + t - 1) / t * t);
  }
  const int64_t data = config.data > 0 ? config.data : ranks / t;
  if (data * t != ranks) {
    fail(Exit::config, "parallel.data = ", data, " x parallel.tensor = ", t, " are ", data * t,
         " ranks, but this job has ", ranks, "; use parallel.data = ", ranks / t,
         " (or 0), or start it with mpirun -np ", data * t);
  }
  if (data % config.expert_slice != 0) {
    fail(Exit::config, "parallel.expert_slice = ", config.expert_slice, " does not divide the ",
         data, " data ranks; use ", nearest_divisors(data, config.expert_slice));
  }
  return {data, t};
}

// Ranks of equal node number, in runs of one length: then places within a node form columns.
bool is_grid(const ProcessGroup& group) {
  const Fabric* fabric = group.fabric();
  if (!fabric) return false;
  std::vector<int> nodes;
  for (const int member : group.members()) nodes.push_back(fabric->node(member));
  size_t length = 1;
  while (length < nodes.size() && nodes[length] == nodes[0]) ++length;
  if (length == nodes.size() || nodes.size() % length != 0) return false;
  std::vector<int> seen;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i] != nodes[i / length * length]) return false;
    if (i % length == 0) {
      if (std::find(seen.begin(), seen.end(), nodes[i]) != seen.end()) return false;
      seen.push_back(nodes[i]);
    }
  }
  return true;
}

std::string pad(const std::string& text, size_t width) {
  return text + std::string(text.size() < width ? width - text.size() : 1, ' ');
}

}  // namespace

std::string nearest_divisors(int64_t n, int64_t x) {
  int64_t below = std::min(x, n), above = std::min(x, n);
  while (below > 1 && n % below != 0) --below;
  while (above < n && n % above != 0) ++above;
  below = std::max<int64_t>(below, 1);
  return below == above ? cat(below) : cat(below, " or ", above);
}

int64_t expert_degree(int64_t experts, int64_t ranks, const std::string& setting) {
  if (experts == 0) return 1;
  const int64_t most = std::gcd(experts, ranks);
  if (setting == "auto") return most;
  const int64_t degree = std::atoll(setting.c_str());
  if (degree < 1 || most % degree != 0) {
    fail(Exit::config, "parallel.expert = ", setting, " does not divide both the ", experts,
         " experts of a layer and the ", ranks, " data rank", ranks == 1 ? "" : "s",
         "; the nearest that do: ", nearest_divisors(most, std::max<int64_t>(degree, 1)),
         ", or auto");
  }
  return degree;
}

Mesh::Mesh(const ProcessGroup& world, const ParallelConfig& config,
           std::span<const int64_t> experts)
    : config_(config), world_(world) {
  const Degrees degrees = find_degrees(config, world.size());
  const auto t = static_cast<int>(degrees.tensor);
  const int me = world.rank(), place = me / t;  // place on the data axis
  data_ = world.split(me % t, place, "data");
  tensor_ = world.split(place, me % t, "tensor");
  const auto s = static_cast<int>(config.expert_slice);
  for (const int64_t count : experts) {
    if (count == 0 || expert_.count(count)) continue;
    const auto d = static_cast<int>(expert_degree(count, degrees.data / s, config.expert));
    const int run = place / (d * s), inner = place % (d * s);
    const std::string label = cat("expert ", d, s > 1 ? cat(" x ", s) : "");
    ExpertGroups groups;
    groups.degree = d;
    groups.slices = s;
    groups.exchange = data_.split(run * s + inner % s, inner / s, label);
    // Tensor ranks have equal rows, unless the coordinated dispatcher cuts them.
    const bool cut = config.dispatcher == "coordinated";
    const ProcessGroup slices =
        s > 1 ? data_.split(place / s, place % s, label + " slices") : ProcessGroup();
    groups.shard = s == 1   ? tensor_
                   : t == 1 ? slices
                            : world.split(place / s, place % s * t + me % t, label + " shard");
    groups.gather = cut ? groups.shard : slices;
    groups.equal = cut ? ProcessGroup() : tensor_;
    groups.copies = data_.split(inner, run, label + " copies");
    groups.holders = world.split(inner / s, me, label + " holders");
    groups.owners = world.split(inner / s * t + (cut ? 0 : me % t), me, label + " owners");
    if (config.dispatcher == "hierarchical") {
      groups.hierarchical = is_grid(groups.exchange);
      const Fabric* fabric = groups.exchange.fabric();
      const int node = fabric ? fabric->node(world.members()[static_cast<size_t>(me)]) : 0;
      groups.inside = groups.exchange.split(node, groups.exchange.rank(), label + " inside");
      groups.between =
          groups.exchange.split(groups.inside.rank(), groups.exchange.rank(), label + " between");
    }
    expert_[count] = std::move(groups);
  }
}

const ExpertGroups& Mesh::expert(int64_t experts) const {
  static const ExpertGroups alone;
  const auto found = expert_.find(experts);
  if (found != expert_.end()) return found->second;
  PM_CHECK(!many(), "Mesh: no groups for layers of ", experts, " experts");
  return alone;
}

std::string Mesh::table(std::span<const int64_t> experts) const {
  const int64_t nodes = world_.fabric() ? world_.fabric()->nodes() : 1;
  std::string text = cat(world_.size(), " ranks on ", nodes, " node", nodes == 1 ? "" : "s", ": ",
                         data_.size(), " data x ", tensor_.size(), " tensor; zero ", config_.zero,
                         ", dispatcher ", config_.dispatcher, "\n");
  text += pad("layers", 12) + pad("experts", 10) + pad("degree", 9) + pad("a rank", 9) +
          pad("slices", 9) + "copies\n";
  for (size_t i = 0; i < experts.size();) {
    size_t end = i + 1;
    while (end < experts.size() && experts[end] == experts[i]) ++end;
    text += pad(end == i + 1 ? cat(i) : cat(i, "-", end - 1), 12);
    if (experts[i] == 0) {
      text += pad("dense", 10) + pad("-", 9) + pad("-", 9) + pad("-", 9) + cat(data_.size(), "\n");
    } else {
      const ExpertGroups& g = expert(experts[i]);
      text += pad(cat(experts[i]), 10) + pad(cat(g.degree), 9) +
              pad(cat(experts[i] / g.degree), 9) + pad(cat(g.shard.size()), 9) +
              cat(g.copies.size(), "\n");
    }
    i = end;
  }
  return text;
}

}  // namespace pyramoe::dist
