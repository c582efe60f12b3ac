// What model_cost counts is what build_model builds: every parameter, and every weight that a token
// is multiplied with.
#include "moe/model_cost.h"

#include "tests/moe/support.h"

namespace pyramoe::moe {
namespace {

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// The table of positions is only looked up; that of tokens is the head as well.
bool is_multiplied(const nn::Parameter& p) {
  const bool norm = p.name.find("norm") != std::string::npos;
  return p.name == "embed.tokens" || (ends_with(p.name, ".weight") && !norm);
}

struct Counted {
  int64_t total = 0, active = 0, expert = 0;
  int64_t multiplied = 0;  // weights of products that a token passes through
};

Counted count(const ModelConfig& config) {
  const auto model = build_model(config, nn::Build{DType::f32, kCpu}, false);
  Counted all;
  for (const nn::Parameter* p : model->parameters(true)) {
    const int64_t n = p->var.value().numel();
    const int64_t used = p->expert ? n / p->var.dim(0) * config.top_k : n;
    all.total += n;
    all.active += used;
    all.expert += p->expert ? n : 0;
    all.multiplied += is_multiplied(*p) ? used : 0;
  }
  return all;
}

std::vector<ModelConfig> models() {
  ModelConfig dense;
  dense.layers = 4;
  dense.dim = 12;
  dense.heads = 3;
  dense.context = 10;
  dense.vocab = 31;
  ModelConfig wide = dense, pyramid = dense, bare, steered, residual, mixed;
  wide.hidden = 17;
  pyramid.experts = "0 3 0 5";
  pyramid.top_k = 2;
  bare = steered = residual = pyramid;
  bare.bias = false;
  bare.expert_hidden = 7;
  steered.gate = "sigmoid_bias";
  residual.residual = true;
  mixed = residual;
  mixed.residual_mix = "learned";
  mixed.shared_hidden = 9;
  return {dense, wide, pyramid, bare, steered, residual, mixed};
}

TEST(ModelCost, CountsTheParametersThatAModelHas) {
  for (const ModelConfig& config : models()) {
    const ModelCost cost = model_cost(config, DType::f32);
    const Counted want = count(config);
    EXPECT_EQ(cost.params_total, want.total);
    EXPECT_EQ(cost.params_active, want.active);
    EXPECT_EQ(cost.params_expert, want.expert);
    EXPECT_EQ(cost.params_dense, want.total - want.expert);
    EXPECT_EQ(cost.params_embedding, (config.vocab + config.context) * config.dim);
    EXPECT_EQ(cost.bytes_weights, 4 * want.total);
    EXPECT_EQ(cost.bytes_training, 16 * want.total);  // and a gradient and two moments
  }
}

// A multiply-add is 2 FLOPs, a backward pass twice a forward pass. A query meets half the context
// on average, D numbers with each key and D with each value.
TEST(ModelCost, CountsTheProductsThatATokenPasses) {
  for (const ModelConfig& config : models()) {
    const int64_t products = 3 * 2 * count(config).multiplied;
    const int64_t attention = 3 * 2 * 2 * config.dim * config.context / 2 * config.layers;
    EXPECT_EQ(model_cost(config, DType::f32).flops_per_token, products + attention);
  }
}

TEST(ModelCost, LayersAddUpToTheModel) {
  for (const ModelConfig& config : models()) {
    const ModelCost cost = model_cost(config, DType::bf16);
    int64_t params = cost.params_embedding + 2 * config.dim;
    for (const LayerCost& layer : cost.layers) params += layer.params;
    EXPECT_EQ(params, cost.params_total);
    EXPECT_EQ(cost.bytes_training, 18 * cost.params_total);  // 2, and 4 each: master, gradient, …
  }
}

}  // namespace
}  // namespace pyramoe::moe
