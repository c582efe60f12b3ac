// Experts that move between layers while a model trains (moe.budget): at times the two experts
// whose merging costs least become one, and the expert on which most rides becomes two, wherever
// they lie. Does a pyramid emerge? Beyond DeepSpeed-MoE, which draws its pyramid by hand
// (section 4.1).
//
// One measure for both, from AdamW's second moments v, which estimate how sharply the loss answers
// a change of each weight w (a diagonal Fisher matrix): an expert's importance is sum v w^2, and
// merging a and b into s a + (1 - s) b costs A (1 - s)^2 + B s^2, A = sum v_a (w_a - w_b)^2 and B
// with v_b; the best s = A / (A + B) costs AB / (A + B). It says what is lost in the same unit in
// every layer. An expert's v grows with the tokens it serves, and halves when it splits.
#pragma once

#include <vector>

#include "core/json.h"
#include "moe/build_model.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/run_config.h"

namespace pyramoe::train {

class ExpertMoves {
 public:
  // Without moe.budget nothing is ever due.
  explicit ExpertMoves(const RunConfig& config);

  // Whether experts may move before this step, at this share of the run's tokens.
  bool due(int64_t step, double progress) const;
  // Moves up to moe.resize_moves experts, with their moments. Collective, and the same on all
  // ranks.
  std::vector<ExpertMove> move(int64_t step, nn::Gpt& model, Optimizer& optimizer);
  // Experts of each block now, 0 for a dense one; empty without moe.budget.
  std::vector<int64_t> live(nn::Gpt& model) const;

  Json state() const;
  void put_state(const Json& state, const std::string& where);

 private:
  moe::ModelConfig config_;
  uint64_t seed_;
  int64_t moved_ = 0;  // the step before which experts last moved
  // By layer of experts and slot: the step at which the expert came from a split; -1 = never.
  std::vector<std::vector<int64_t>> born_;
};

// One parameter of a layer's experts, or of its router, with all that the optimizer keeps of it.
// Axis 0 counts slots. `wide` is the weight that is updated: the master copy where there is one.
struct ExpertPiece {
  std::string name;
  Tensor value, wide, m, v;
};

struct ExpertLayer {
  int64_t block = 0;
  const moe::Router* router = nullptr;
  std::vector<ExpertPiece> experts;
  ExpertPiece rows;  // of the router
};

// The layers of experts of a model with their state as Optimizer::state() gave it.
std::vector<ExpertLayer> expert_layers(nn::Gpt& model, const std::vector<nn::NamedTensor>& state);

// sum v w^2 of an expert.
double importance(const ExpertLayer& layer, int64_t slot);

struct MergeCost {
  double cost = 0, share = 0.5;  // s of `kept` in the merged expert
};
MergeCost merge_cost(const ExpertLayer& layer, int64_t kept, int64_t other);

// Slot `kept` becomes share * kept + (1 - share) * freed, moments add up, and `freed` is empty.
void merge_experts(const ExpertLayer& layer, int64_t kept, int64_t freed, double share);
// The empty slot `born` becomes a copy of `split`; both have half of its moments, and their router
// rows lie to either side of the old one by noise of a tenth of its size.
void split_expert(const ExpertLayer& layer, int64_t split, int64_t born, const RngKey& key);

}  // namespace pyramoe::train
