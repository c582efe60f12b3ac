#include "moe/model_cost.h"

namespace pyramoe::moe {
namespace {

// Parameters of y = x w^T + b, and of D -> F, GELU, F -> D.
struct Params {
  bool bias;
  int64_t linear(int64_t in, int64_t out) const { return in * out + (bias ? out : 0); }
  int64_t mlp(int64_t dim, int64_t hidden) const {
    return linear(dim, hidden) + linear(hidden, dim);
  }
};
// Weights that a token is multiplied with (biases are additions).
int64_t mlp_weights(int64_t dim, int64_t hidden) { return 2 * dim * hidden; }

LayerCost layer_cost(const ModelConfig& c, const LayerPlan& plan) {
  LayerCost cost;
  const Params count{c.bias};
  cost.plan = plan;
  const int64_t d = c.dim;
  const int64_t attention = count.linear(d, 3 * d) + count.linear(d, d);
  const int64_t norms = 4 * d;
  int64_t weights = 4 * d * d;  // multiplied with every token
  cost.params = cost.params_active = attention + norms;
  if (plan.kind == FfnKind::dense) {
    cost.params += count.mlp(d, c.dense_hidden());
    cost.params_active += count.mlp(d, c.dense_hidden());
    weights += mlp_weights(d, c.dense_hidden());
  } else {
    const int64_t expert = count.mlp(d, c.moe_hidden());
    const int64_t router = d * plan.live + (c.gate == "sigmoid_bias" ? plan.live : 0);
    cost.params_expert = plan.live * expert;
    cost.params_spare = (plan.experts - plan.live) * (expert + d);
    cost.params += router + cost.params_expert;
    cost.params_active += router + plan.top_k * expert;
    weights += d * plan.live + plan.top_k * mlp_weights(d, c.moe_hidden());
    if (plan.kind == FfnKind::residual_moe) {
      const int64_t mix = c.residual_mix == "learned" ? count.linear(d, 2) : 0;
      cost.params += count.mlp(d, c.residual_hidden()) + mix;
      cost.params_active += count.mlp(d, c.residual_hidden()) + mix;
      weights += mlp_weights(d, c.residual_hidden()) + (mix ? 2 * d : 0);
    }
  }
  cost.flops_per_token = 6 * weights + 6 * d * c.context;
  return cost;
}

}  // namespace

ModelCost model_cost(const ModelConfig& config, DType dtype) {
  ModelCost cost;
  // Every product below is far under 2^63 when this bound holds.
  const double bound = 16.0 * static_cast<double>(config.dim) *
                       static_cast<double>(config.dense_hidden() + config.moe_hidden() +
                                           config.residual_hidden() + config.dim) *
                       (1.0 + 65536.0) * static_cast<double>(config.layers);
  if (bound > 4e18) {
    fail(Exit::config, "model.dim = ", config.dim, " with model.layers = ", config.layers,
         " and these hidden sizes has more parameters than can be counted; check the units");
  }
  cost.params_embedding = (config.vocab + config.context) * config.dim;
  cost.params_total = cost.params_active = cost.params_embedding + 2 * config.dim;
  for (const LayerPlan& plan : layer_plan(config)) {
    cost.layers.push_back(layer_cost(config, plan));
    const LayerCost& layer = cost.layers.back();
    cost.params_total += layer.params;
    cost.params_active += layer.params_active;
    cost.params_expert += layer.params_expert;
    cost.params_spare += layer.params_spare;
    cost.flops_per_token += layer.flops_per_token;
  }
  cost.flops_per_token += 6 * config.vocab * config.dim;
  cost.params_dense = cost.params_total - cost.params_expert;
  const int64_t size = size_of(dtype);
  const int64_t wide = dtype == DType::f64 ? 8 : 4;
  const int64_t master = dtype == DType::bf16 ? wide : 0;
  const int64_t held = cost.params_total + cost.params_spare;
  cost.bytes_weights = held * size;
  cost.bytes_training = held * (size + master + wide + 2 * wide);
  return cost;
}

}  // namespace pyramoe::moe
