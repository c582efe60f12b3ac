#include "train/expert_moves.h"

#include <algorithm>
#include <limits>

namespace pyramoe::train {
namespace {

constexpr int64_t kGrace = 2;  // moves for which both halves of a split are left alone

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What a layer offers to a move: its cheapest merge, its most important expert.
struct Offer {
  MergeCost merge{kInfinity, 0.5};
  int64_t kept = -1, freed = -1;
  double importance = -1;
  int64_t split = -1;
  int64_t empty = -1;  // a slot without an expert
};

// The merge of the least important grown expert with the one that it costs least to join.
void find_merge(const ExpertLayer& layer, const std::vector<double>& weight, int64_t least,
                Offer& offer) {
  for (size_t e = 0; e < weight.size(); ++e) {
    const auto slot = static_cast<int64_t>(e);
    if (weight[e] < 0 || slot == least) continue;
    const int64_t kept = std::min(slot, least), freed = std::max(slot, least);
    const MergeCost merge = merge_cost(layer, kept, freed);
    if (!(merge.cost < offer.merge.cost)) continue;
    offer.merge = merge;
    offer.kept = kept;
    offer.freed = freed;
  }
}

//   young  experts that neither merge nor split yet
Offer offer_of(const ExpertLayer& layer, const std::vector<bool>& young, int64_t top_k) {
  Offer offer;
  const std::vector<bool> live = layer.router->live();
  std::vector<double> weight(live.size(), -1.0);  // importance; -1: takes no part
  int64_t least = -1, count = 0;
  for (size_t e = 0; e < live.size(); ++e) {
    const auto slot = static_cast<int64_t>(e);
    if (!live[e] && offer.empty < 0) offer.empty = slot;
    count += live[e] ? 1 : 0;
    if (!live[e] || young[e]) continue;
    weight[e] = importance(layer, slot);
    if (weight[e] > offer.importance) {
      offer.importance = weight[e];
      offer.split = slot;
    }
    if (least < 0 || weight[e] < weight[static_cast<size_t>(least)]) least = slot;
  }
  if (least >= 0 && count > top_k) find_merge(layer, weight, least, offer);
  return offer;
}

// The layer whose merge costs least and the layer whose split relieves most; the second is
// offers.size() where no move is worth its cost.
std::pair<size_t, size_t> best_of(const std::vector<Offer>& offers) {
  size_t from = 0, to = offers.size();
  for (size_t i = 1; i < offers.size(); ++i) {
    if (offers[i].merge.cost < offers[from].merge.cost) from = i;
  }
  const Offer& merge = offers[from];
  for (size_t i = 0; i < offers.size(); ++i) {
    const Offer& o = offers[i];
    const bool merges = i == from && (o.split == merge.kept || o.split == merge.freed);
    if (o.split < 0 || merges || (o.empty < 0 && i != from)) continue;
    if (to == offers.size() || o.importance > offers[to].importance) to = i;
  }
  // Each half will bear half.
  const bool worth =
      merge.kept >= 0 && to < offers.size() && offers[to].importance / 2 > merge.merge.cost;
  return {from, worth ? to : offers.size()};
}

ExpertMove apply(const ExpertLayer& from, const Offer& merge, const ExpertLayer& to,
                 const Offer& split, int64_t step, uint64_t seed) {
  merge_experts(from, merge.kept, merge.freed, merge.merge.share);
  const int64_t born = split.empty >= 0 ? split.empty : merge.freed;
  split_expert(to, split.split, born,
               {seed, RngPurpose::expert_split, static_cast<uint32_t>(step),
                static_cast<uint32_t>(to.block)});
  return {from.block,  merge.kept, merge.freed,      to.block,
          split.split, born,       merge.merge.cost, split.importance};
}

}  // namespace

ExpertMoves::ExpertMoves(const RunConfig& config)
    : config_(config.model), seed_(static_cast<uint64_t>(config.train.seed)) {
  if (config_.budget == 0) return;
  for (const moe::LayerPlan& layer : moe::layer_plan(config_)) {
    if (layer.experts > 0) born_.emplace_back(static_cast<size_t>(layer.experts), -1);
  }
}

bool ExpertMoves::due(int64_t step, double progress) const {
  return config_.budget > 0 && step > moved_ && step % config_.resize_every == 0 &&
         progress < config_.resize_until;
}

std::vector<ExpertMove> ExpertMoves::move(int64_t step, nn::Gpt& model, Optimizer& optimizer) {
  moved_ = step;
  const std::vector<nn::NamedTensor> state = optimizer.state();
  const std::vector<ExpertLayer> layers = expert_layers(model, state);
  std::vector<Offer> offers(layers.size());
  const auto look = [&](size_t i) {
    std::vector<bool> rests;
    for (const int64_t born : born_[i]) {
      rests.push_back(born >= 0 && step - born < kGrace * config_.resize_every);
    }
    offers[i] = offer_of(layers[i], rests, config_.top_k);
  };
  for (size_t i = 0; i < layers.size(); ++i) look(i);
  std::vector<ExpertMove> moves;
  while (static_cast<int64_t>(moves.size()) < config_.resize_moves) {
    const auto [from, to] = best_of(offers);
    if (to == offers.size()) break;
    moves.push_back(apply(layers[from], offers[from], layers[to], offers[to], step, seed_));
    const ExpertMove& move = moves.back();
    born_[from][static_cast<size_t>(move.freed)] = -1;
    for (const int64_t half : {move.split, move.born}) born_[to][static_cast<size_t>(half)] = step;
    look(from);
    if (to != from) look(to);
  }
  if (!moves.empty()) optimizer.put_state(state);
  return moves;
}

std::vector<int64_t> ExpertMoves::live(nn::Gpt& model) const {
  if (config_.budget == 0) return {};
  std::vector<int64_t> live(static_cast<size_t>(config_.layers), 0);
  for (const moe::MoeLayerRef& ref : moe::moe_layers(model)) {
    live[static_cast<size_t>(ref.layer)] = ref.moe->router().live_count();
  }
  return live;
}

Json ExpertMoves::state() const { return {{"moved", moved_}, {"born", born_}}; }

void ExpertMoves::put_state(const Json& state, const std::string& where) {
  std::vector<std::vector<int64_t>> born;
  try {
    moved_ = state.at("moved").get<int64_t>();
    born = state.at("born").get<std::vector<std::vector<int64_t>>>();
  } catch (const Json::exception&) {
    fail(Exit::checkpoint, where, ": expert_moves lacks moved or born");
  }
  bool fits = born.size() == born_.size();
  for (size_t i = 0; fits && i < born.size(); ++i) fits = born[i].size() == born_[i].size();
  if (!fits) fail(Exit::checkpoint, where, ": expert_moves are those of other layers of experts");
  born_ = std::move(born);
}

}  // namespace pyramoe::train
