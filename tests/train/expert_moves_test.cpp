// Experts that move under a budget: empty slots are no experts, measures and surgery by hand, two
// planted moves, a budget that stays, and a resumed run with equal bits.
#include "train/expert_moves.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "autograd/ops.h"
#include "core/file.h"
#include "moe/model_cost.h"
#include "tests/train/support.h"

namespace pyramoe {
namespace {

// Two layers of 4 slots, 2 experts each.
train::RunConfig moving_config(const std::string& dir) {
  train::RunConfig config = test::small_config(dir);
  config.model.layers = 4;
  config.model.experts = "0 4 0 4";
  config.model.budget = 4;
  config.model.resize_every = 2;
  config.model.resize_until = 1;
  config.train.dtype = "f64";
  config.train.steps = 16;
  return config;
}

TEST(EmptySlots, GetNoTokensInTrainingAndInEvaluation) {
  for (const int64_t top_k : {1, 2}) {
    moe::ModelConfig config = moving_config("").model;
    config.top_k = top_k;
    config.init_std = 2;  // logits far apart: an empty slot would often be the largest
    auto model = moe::build_model(config, {DType::f32, kCpu}, false);
    model->initialise(3);
    std::vector<int32_t> ids(64);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * i % 64);
    for (const bool training : {true, false}) {
      nn::Context context;
      context.training = training;
      model->forward(Tensor::from(ids, {4, 16}), context);
      ASSERT_EQ(context.stats.size(), 2u);
      for (const nn::LayerStat& stat : context.stats) {
        const std::vector<double> load = stat.load.to_vector();
        EXPECT_EQ(load[2] + load[3], 0);
        EXPECT_EQ(load[0] + load[1], static_cast<double>(64 * top_k));
      }
    }
  }
}

// Loss, gradient norm and routing of a model whose slots 2 and 3 are empty are those of the model
// with two experts: the capacity and the balance loss count live experts.
TEST(EmptySlots, AreAsIfTheyWereNotThere) {
  const test::ScratchFolder scratch;
  train::RunConfig with = moving_config(scratch.path("with"));
  with.model.resize_every = 1000;
  train::RunConfig without = with;
  without.model.experts = "0 2 0 2";
  without.model.budget = 0;
  with.model.noise = without.model.noise = "none";  // noise is keyed by the slot's number
  train::Trainer a(with, kCpu), b(without, kCpu);
  std::map<std::string, Tensor> from;
  for (const nn::Parameter* p : a.model().parameters()) from[p->name] = p->var.value();
  for (const nn::Parameter* p : b.model().parameters()) {
    const Tensor& whole = from.at(p->name);
    const bool cut = whole.shape() != p->var.shape();
    p->var.value().copy_from(cut ? whole.rows(0, p->var.value().dim(0)) : whole);
  }
  for (int step = 0; step < 3; ++step) {
    const train::StepResult x = a.step(), y = b.step();
    EXPECT_NEAR(x.loss, y.loss, 1e-12);
    EXPECT_NEAR(x.balance_loss, y.balance_loss, 1e-12);
    EXPECT_NEAR(x.grad_norm, y.grad_norm, 1e-11);
    EXPECT_EQ(x.dropped, y.dropped);
    EXPECT_GT(x.dropped, 0);
    EXPECT_EQ(x.imbalance, y.imbalance);
    EXPECT_EQ(x.live, (std::vector<int64_t>{0, 2, 0, 2}));
  }
  EXPECT_EQ(moe::model_cost(with.model, DType::f32).params_total,
            moe::model_cost(without.model, DType::f32).params_total);
  EXPECT_EQ(moe::model_cost(with.model, DType::f32).flops_per_token,
            moe::model_cost(without.model, DType::f32).flops_per_token);
}

// A trainer that has taken three steps, and its layers of experts.
struct Trained {
  explicit Trained(const train::RunConfig& config) : trainer(config, kCpu) {
    while (trainer.steps_done() < 3) trainer.step();
    state = trainer.optimizer().state();
    layers = train::expert_layers(trainer.model(), state);
  }
  train::Trainer trainer;
  std::vector<nn::NamedTensor> state;
  std::vector<train::ExpertLayer> layers;
};

std::vector<double> row(const Tensor& all, int64_t slot) {
  return all.rows(slot, slot + 1).to_vector();
}

train::RunConfig still_config(const test::ScratchFolder& scratch) {
  train::RunConfig config = moving_config(scratch.path("run"));
  config.model.resize_every = 1000;
  return config;
}

// The cost of merging slots 0 and 1 as share * 0 + (1 - share) * 1.
double cost_at(const train::ExpertLayer& layer, double share) {
  double cost = 0;
  for (const train::ExpertPiece& piece : layer.experts) {
    const std::vector<double> a = row(piece.wide, 0), b = row(piece.wide, 1);
    const std::vector<double> va = row(piece.v, 0), vb = row(piece.v, 1);
    for (size_t i = 0; i < a.size(); ++i) {
      const double merged = share * a[i] + (1 - share) * b[i];
      cost += va[i] * (a[i] - merged) * (a[i] - merged) + vb[i] * (b[i] - merged) * (b[i] - merged);
    }
  }
  return cost;
}

TEST(ExpertSurgery, ImportanceAndCostAreTheSumsThatTheySay) {
  const test::ScratchFolder scratch;
  const Trained t(still_config(scratch));
  ASSERT_EQ(t.layers.size(), 2u);
  EXPECT_EQ(t.layers[1].block, 3);
  EXPECT_EQ(t.layers[0].experts.size(), 4u);  // two weights, two biases
  const train::ExpertLayer& layer = t.layers[0];
  double sum = 0;
  for (const train::ExpertPiece& piece : layer.experts) {
    const std::vector<double> w = row(piece.wide, 1), v = row(piece.v, 1);
    for (size_t i = 0; i < w.size(); ++i) sum += v[i] * w[i] * w[i];
  }
  EXPECT_GT(sum, 0);
  EXPECT_NEAR(train::importance(layer, 1), sum, 1e-12 * sum);
  const train::MergeCost merge = train::merge_cost(layer, 0, 1);
  EXPECT_GT(merge.cost, 0);
  EXPECT_NEAR(cost_at(layer, merge.share), merge.cost, 1e-12 * merge.cost);
  EXPECT_GT(cost_at(layer, merge.share + 0.01), merge.cost);  // the best there is
  EXPECT_GT(cost_at(layer, merge.share - 0.01), merge.cost);
}

TEST(ExpertSurgery, AMergeMixesWeightsAndAddsMoments) {
  const test::ScratchFolder scratch;
  const Trained t(still_config(scratch));
  const train::ExpertLayer& layer = t.layers[0];
  const train::ExpertPiece& piece = layer.experts[0];
  const std::vector<double> a = row(piece.wide, 0), b = row(piece.wide, 1);
  const std::vector<double> va = row(piece.v, 0), vb = row(piece.v, 1);
  train::merge_experts(layer, 0, 1, 0.75);
  const std::vector<double> merged = row(piece.value, 0), v = row(piece.v, 0);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(merged[i], 0.75 * a[i] + 0.25 * b[i], 1e-15);
    EXPECT_EQ(v[i], va[i] + vb[i]);
  }
  EXPECT_EQ(layer.router->live(), (std::vector<bool>{true, false, false, false}));
  EXPECT_EQ(layer.router->live_count(), 1);
}

TEST(ExpertSurgery, ASplitCopiesHalvesMomentsAndPartsTheRouter) {
  const test::ScratchFolder scratch;
  const Trained t(still_config(scratch));
  const train::ExpertLayer& layer = t.layers[0];
  const std::vector<double> parent = row(layer.rows.wide, 1);
  const std::vector<double> v = row(layer.experts[1].v, 1);
  train::split_expert(layer, 1, 3, {7, RngPurpose::expert_split, 3, 1});
  for (const train::ExpertPiece& piece : layer.experts) {
    EXPECT_EQ(row(piece.value, 1), row(piece.value, 3)) << piece.name;
    EXPECT_EQ(row(piece.m, 1), row(piece.m, 3)) << piece.name;
  }
  const std::vector<double> half = row(layer.experts[1].v, 3);
  for (size_t i = 0; i < v.size(); ++i) EXPECT_EQ(half[i], v[i] / 2);
  const std::vector<double> plus = row(layer.rows.value, 1), minus = row(layer.rows.value, 3);
  double distance = 0, size = 0;
  for (size_t i = 0; i < parent.size(); ++i) {
    EXPECT_NEAR((plus[i] + minus[i]) / 2, parent[i], 1e-15);
    distance += (plus[i] - minus[i]) * (plus[i] - minus[i]) / 4;
    size += parent[i] * parent[i];
  }
  EXPECT_GT(std::sqrt(distance / size), 0.03);
  EXPECT_LT(std::sqrt(distance / size), 0.3);
  EXPECT_EQ(layer.router->live(), (std::vector<bool>{true, true, false, true}));
}

// Equal experts cost nothing to merge; the expert whose loss answers most is split, in the other
// layer.
TEST(ExpertMoves, GoFromWhereTheyAreEqualToWhereMostRidesOnOne) {
  const test::ScratchFolder scratch;
  train::RunConfig config = still_config(scratch);
  Trained t(config);
  for (const train::ExpertPiece& piece : t.layers[0].experts) {
    piece.wide.rows(1, 2).copy_from(piece.wide.rows(0, 1));
  }
  for (const train::ExpertPiece& piece : t.layers[1].experts) {
    const Tensor v = piece.v.rows(1, 2);
    std::vector<double> more = v.to_vector();
    for (double& x : more) x *= 100;
    v.copy_from(Tensor::from(more, v.shape()));
  }
  config.model.resize_every = 3;
  train::ExpertMoves moves(config);
  EXPECT_TRUE(moves.due(3, 0.1));
  EXPECT_FALSE(moves.due(4, 0.1));
  EXPECT_FALSE(moves.due(3, 1.0));  // moe.resize_until
  const std::vector<train::ExpertMove> made =
      moves.move(3, t.trainer.model(), t.trainer.optimizer());
  ASSERT_EQ(made.size(), 1u);
  EXPECT_EQ(made[0].merged_block, 1);
  EXPECT_EQ(made[0].kept, 0);
  EXPECT_EQ(made[0].freed, 1);
  EXPECT_EQ(made[0].cost, 0);
  EXPECT_EQ(made[0].split_block, 3);
  EXPECT_EQ(made[0].split, 1);
  EXPECT_EQ(made[0].born, 2);
  EXPECT_EQ(moves.live(t.trainer.model()), (std::vector<int64_t>{0, 1, 0, 3}));
  EXPECT_FALSE(moves.due(3, 0.1));  // a step that was asked to stop comes again
  // Halves rest; the layer of one expert cannot give any: nothing is left to merge.
  EXPECT_TRUE(moves.move(6, t.trainer.model(), t.trainer.optimizer()).empty());
}

// Four experts in each layer, far from equal: some move.
train::RunConfig lively_config(const test::ScratchFolder& scratch) {
  train::RunConfig config = moving_config(scratch.path("run"));
  config.model.experts = "0 8 0 8";
  config.model.budget = 8;
  config.model.init_std = 0.3;
  config.model.resize_moves = 2;
  return config;
}

TEST(ExpertMoves, TheBudgetStaysAndExpertsDoMove) {
  const test::ScratchFolder scratch;
  const train::RunConfig config = lively_config(scratch);
  train::Trainer trainer(config, kCpu);
  size_t moves = 0;
  while (trainer.steps_done() < config.train.steps) {
    const train::StepResult result = trainer.step();
    moves += result.moves.size();
    EXPECT_EQ(std::accumulate(result.live.begin(), result.live.end(), int64_t{0}), 8);
    for (size_t i = 0; i < result.load.size(); ++i) {
      const auto served = std::count_if(result.load[i].begin(), result.load[i].end(),
                                        [](int64_t count) { return count > 0; });
      EXPECT_LE(served, result.live[2 * i + 1]);
    }
  }
  EXPECT_GT(moves, 0u);
}

TEST(ExpertMoves, AResumedRunMovesTheSameExpertsWithTheSameBits) {
  for (const char* dtype : {"f32", "bf16"}) {
    const test::ScratchFolder scratch;
    train::RunConfig config = lively_config(scratch);
    config.train.dtype = dtype;
    train::Trainer whole(config, kCpu);
    size_t moves = 0;
    while (whole.steps_done() < config.train.steps) moves += whole.step().moves.size();
    EXPECT_GT(moves, 0u);
    for (const int64_t cut : {1, 2, 3, 4, 7, 8, 13}) {
      {
        train::Trainer first(config, kCpu);
        while (first.steps_done() < cut) first.step();
        first.save();
      }
      train::Trainer second(config, kCpu);
      second.resume(nn::Checkpoint::newest(config.dir));
      while (second.steps_done() < config.train.steps) second.step();
      test::expect_equal_bits(test::state_bits(whole), test::state_bits(second));
      remove_tree(config.dir);
    }
  }
}

TEST(Budget, WhatCannotBeSharedIsRefused) {
  const auto refused = [](const std::function<void(moe::ModelConfig&)>& change) {
    moe::ModelConfig config = moving_config("").model;
    change(config);
    EXPECT_THROW(moe::layer_plan(config), Error);
  };
  EXPECT_EQ(moe::layer_plan(moving_config("").model)[3].live, 2);
  refused([](moe::ModelConfig& c) { c.budget = 5; });   // not equal
  refused([](moe::ModelConfig& c) { c.budget = 10; });  // more than slots
  refused([](moe::ModelConfig& c) { c.top_k = 3; });    // fewer than a token chooses
  refused([](moe::ModelConfig& c) { c.gate = "sigmoid_bias"; });
  refused([](moe::ModelConfig& c) { c.force_balance = true; });
  refused([](moe::ModelConfig& c) { c.experts = "0"; });
}

}  // namespace
}  // namespace pyramoe
