// Which rank does what: world = data x tensor, and for each layer of experts its own cut of the
// data axis.
//
// Tensor is innermost, so it stays inside a node. For a layer of degree d and s slices the data
// axis is cut into runs of d * s consecutive ranks. Rank i of a run holds expert part i / s and, of
// each of its experts, hidden slice i mod s (with t tensor ranks, one of its t parts). Runs are
// copies of each other. A pyramid of 4 and 8
// experts on 8 ranks has d = 4 (two copies) and d = 8 (one) at once. A default Mesh is one rank.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "dist/parallel_config.h"
#include "dist/process_group.h"

namespace pyramoe::dist {

// The ranks around the experts of one layer, as one rank sees them.
struct ExpertGroups {
  int degree = 1, slices = 1;
  ProcessGroup exchange;  // d ranks of equal slice: tokens travel among them
  ProcessGroup shard;     // ranks that share experts' hidden axis: s data ranks x tensor ranks
  ProcessGroup gather;    // of `shard`: ranks with rows of their own, which are gathered over them
  ProcessGroup equal;     // of `shard`: ranks with equal rows; their partial results are summed
  ProcessGroup owners;    // of `holders`: ranks with rows of their own
  ProcessGroup copies;    // data ranks that hold exactly what this rank holds
  ProcessGroup holders;   // ranks of the world that hold these experts, any part of them
  ProcessGroup inside;    // of `exchange`: those on this rank's node (hierarchical dispatcher)
  ProcessGroup between;   // of `exchange`: those at this rank's place in every node
  bool hierarchical = false;  // inside and between form a grid
};

class Mesh {
 public:
  Mesh() = default;  // one rank
  //   experts  counts of all layers, 0 = dense
  // Collective. Throws Error(config) that names the nearest possible layouts.
  Mesh(const ProcessGroup& world, const ParallelConfig& config, std::span<const int64_t> experts);

  const ProcessGroup& world() const { return world_; }
  const ProcessGroup& data() const { return data_; }
  const ProcessGroup& tensor() const { return tensor_; }
  // Around a layer of that many experts.
  const ExpertGroups& expert(int64_t experts) const;
  const ParallelConfig& config() const { return config_; }
  bool many() const { return world_.size() > 1; }

  // The plan, one row a layer (equal neighbours share one), as it is printed before a run.
  std::string table(std::span<const int64_t> experts) const;

 private:
  ParallelConfig config_;
  ProcessGroup world_, data_, tensor_;
  std::map<int64_t, ExpertGroups> expert_;  // by experts of the layer
};

// The degree of a layer: the setting, or for auto the most ranks among which the experts divide
// with none idle. Throws Error(config).
//   ranks  data ranks / slices
int64_t expert_degree(int64_t experts, int64_t ranks, const std::string& setting);

// Divisors of n around x, for messages: "2 or 4".
std::string nearest_divisors(int64_t n, int64_t x);

}  // namespace pyramoe::dist
