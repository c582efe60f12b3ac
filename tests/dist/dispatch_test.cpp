// Dispatchers against each other on one layer of experts: bits of outputs and gradients, and how
// many messages each sends, counted.
#include <cstring>

#include "moe/build_model.h"
#include "nn/gather.h"
#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using test::random_tensor;
using test::world;

struct Result {
  std::map<std::string, Tensor> values;
  dist::Traffic traffic;  // of the forward pass
};

constexpr int64_t kBatch = 2, kLength = 8, kDim = 16, kExperts = 8;

moe::ModelConfig layer_config() {
  moe::ModelConfig config;
  config.layers = 1;
  config.dim = kDim;
  config.heads = 2;
  config.context = kLength;
  config.vocab = 16;
  config.experts = std::to_string(kExperts);
  config.expert_hidden = 32;
  config.top_k = 2;
  config.init_std = 0.5;
  return config;
}

// Forward and backward of one layer; every data rank has tokens of its own.
Result run(const moe::ModelConfig& config, const dist::ParallelConfig& parallel) {
  dist::Fabric* fabric = world().fabric();
  if (fabric && parallel.node_size > 0) fabric->set_node_size(static_cast<int>(parallel.node_size));
  const int64_t experts[] = {kExperts};
  const dist::Mesh mesh(world(), parallel, experts);
  const nn::Build build{DType::f64, kCpu, true, &mesh};
  const auto layer = moe::build_feed_forward(config, moe::layer_plan(config)[0], build);
  layer->initialise(3);
  for (const nn::Parameter* p : layer->parameters()) {
    p->var.place_grad(Tensor::zeros(p->var.shape(), DType::f64));
  }
  nn::Context context;
  context.training = true;
  context.batch = kBatch;
  context.length = kLength;
  context.first_sequence = mesh.data().rank() * kBatch;
  const Var x(random_tensor({kBatch * kLength, kDim}, DType::f64, 5, mesh.data().rank()), true);
  if (fabric) fabric->traffic().clear();
  const nn::FfnOut out = layer->forward(x, context);
  Result result;
  if (fabric) result.traffic = fabric->traffic();
  backward(Vars{out.y, out.balance_loss},
           Tensors{random_tensor(out.y.shape(), DType::f64, 6, mesh.data().rank()),
                   Tensor::scalar(0.1, DType::f64)});
  result.values["y"] = out.y.value();
  result.values["aux"] = out.balance_loss.value();
  result.values["dx"] = x.grad();
  for (const nn::Parameter* p : layer->parameters()) {
    Tensor grad = p->var.grad().clone();
    dist::ProcessGroup sync = p->place.sync;
    sync.all_reduce(grad);
    result.values[p->name] = grad;
  }
  if (fabric) fabric->set_node_size(world().size());
  return result;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}

void expect_near(const Tensor& a, const Tensor& b, double tolerance, const std::string& name) {
  ASSERT_EQ(a.shape(), b.shape()) << name;
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_NEAR(x[i], y[i], tolerance * (1 + std::abs(y[i]))) << name << " at " << i;
  }
}

dist::ParallelConfig with(const char* dispatcher, int64_t node_size = 0, int64_t tensor = 1) {
  dist::ParallelConfig config;
  config.dispatcher = dispatcher;
  config.node_size = node_size;
  config.tensor = tensor;
  return config;
}

TEST(RankDispatch, HierarchicalIsFlatBitForBit) {
  if (world().size() < 4) GTEST_SKIP() << "needs 4 ranks";
  for (const double capacity : {0.0, 0.75}) {
    moe::ModelConfig config = layer_config();
    config.capacity_factor = capacity;
    config.min_capacity = 1;
    const Result flat = run(config, with("flat"));
    for (int64_t node = 1; node < world().size(); node *= 2) {
      const Result two = run(config, with("hierarchical", node));
      for (const auto& [name, value] : flat.values) {
        EXPECT_TRUE(same_bits(two.values.at(name), value)) << name << ", nodes of " << node;
      }
    }
    dist::ParallelConfig blocks = with("flat");
    blocks.blocks = true;
    const Result fixed = run(config, blocks);
    for (const auto& [name, value] : flat.values) {
      EXPECT_TRUE(same_bits(fixed.values.at(name), value)) << name << ", fixed blocks";
    }
  }
}

TEST(RankDispatch, EinsumAgrees) {
  moe::ModelConfig config = layer_config();
  config.capacity_factor = 1.0;
  const Result flat = run(config, with("flat")), dense = run(config, with("einsum"));
  for (const auto& [name, value] : flat.values) {
    expect_near(dense.values.at(name), value, 1e-12, name);
  }
}

TEST(RankDispatch, CoordinatedHasTheSameOutputs) {
  for (const int64_t tensor : {2, 4}) {
    if (world().size() < tensor) continue;
    const Result flat = run(layer_config(), with("flat", 0, tensor));
    const Result cut = run(layer_config(), with("coordinated", 0, tensor));
    EXPECT_TRUE(same_bits(cut.values.at("y"), flat.values.at("y"))) << tensor << " tensor ranks";
    for (const auto& [name, value] : flat.values) {
      expect_near(cut.values.at(name), value, 1e-12, name);
    }
  }
}

int64_t sent(const Result& result, const char* op) {
  const auto row = result.traffic.rows().find(op);
  if (row == result.traffic.rows().end()) return 0;
  return row->second.messages[0] + row->second.messages[1];
}

// Three exchanges a layer: counts, rows there, rows back. With perfect balance all pairs talk.
int64_t exchanged(const Result& result) {
  return sent(result, "all_to_all") + sent(result, "counts");
}

TEST(RankDispatch, MessagesAreAsFewAsPromised) {
  const int64_t p = world().size();
  if (p < 4) GTEST_SKIP() << "needs 4 ranks";
  moe::ModelConfig config = layer_config();
  config.force_balance = true;
  const Result flat = run(config, with("flat", 2));
  EXPECT_EQ(exchanged(flat), 3 * (p - 1));
  for (int64_t node = 2; node < p; node *= 2) {
    const Result two = run(config, with("hierarchical", node));
    EXPECT_EQ(exchanged(two), 3 * (node - 1 + p / node - 1)) << "nodes of " << node;
    EXPECT_EQ(two.traffic.rows().at("all_to_all").messages[1], 2 * (p / node - 1));
    EXPECT_EQ(flat.traffic.rows().at("all_to_all").messages[1], 2 * (p - 2));
  }
  for (const int64_t tensor : {2, 4}) {
    const Result whole = run(config, with("flat", 0, tensor));
    const Result cut = run(config, with("coordinated", 0, tensor));
    EXPECT_EQ(exchanged(cut), 3 * (p / tensor - 1));
    if (p == tensor) continue;
    const auto bytes = [](const Result& r) {
      const dist::TrafficRow& row = r.traffic.rows().at("all_to_all");
      return row.bytes[0] + row.bytes[1];
    };
    EXPECT_EQ(bytes(cut), bytes(whole) / tensor);
  }
}

}  // namespace
}  // namespace pyramoe
