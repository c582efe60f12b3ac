#include "moe/build_model.h"

#include "moe/residual_moe.h"
#include "nn/mlp.h"

namespace pyramoe::moe {

std::unique_ptr<nn::FeedForward> build_feed_forward(const ModelConfig& config,
                                                    const LayerPlan& plan, const nn::Build& where) {
  nn::Build build = where;
  build.bias = config.bias;
  switch (plan.kind) {
    case FfnKind::moe:
      return std::make_unique<MoeLayer>(config, plan, build);
    case FfnKind::residual_moe:
      return std::make_unique<ResidualMoe>(config, plan, build);
    case FfnKind::dense:
      break;
  }
  return std::make_unique<nn::Mlp>(config.dim, config.dense_hidden(), config.init_std,
                                   config.out_std(), build);
}

std::unique_ptr<nn::Gpt> build_model(const ModelConfig& config, const nn::Build& where,
                                     bool recompute) {
  nn::Build build = where;
  build.bias = config.bias;
  const std::vector<LayerPlan> plan = layer_plan(config);
  nn::GptOptions options;
  options.vocab = config.vocab;
  options.context = config.context;
  options.layers = config.layers;
  options.attention = {config.dim, config.heads, config.init_std, config.out_std(), config.dropout};
  options.dropout = config.dropout;
  options.recompute = recompute;
  return std::make_unique<nn::Gpt>(
      options,
      [&](int64_t layer) {
        return build_feed_forward(config, plan.at(static_cast<size_t>(layer)), build);
      },
      build);
}

std::vector<MoeLayerRef> moe_layers(nn::Gpt& model) {
  std::vector<MoeLayerRef> layers;
  for (int64_t i = 0; i < model.options().layers; ++i) {
    nn::FeedForward* ffn = &model.block(i).ffn();
    if (auto* residual = dynamic_cast<ResidualMoe*>(ffn)) ffn = &residual->moe();
    if (auto* moe = dynamic_cast<MoeLayer*>(ffn)) layers.push_back({i, moe});
  }
  return layers;
}

std::vector<Tensor> sum_loads(nn::Gpt& model, std::span<const nn::LayerStat> stats) {
  std::vector<Tensor> loads;
  for (const MoeLayerRef& ref : moe_layers(model)) {
    Tensor total = Tensor::zeros({ref.moe->router().experts()}, DType::i64);
    int64_t* sum = total.data<int64_t>();
    for (const nn::LayerStat& stat : stats) {
      if (stat.layer != ref.layer) continue;
      const std::vector<double> load = stat.load.to_vector();
      for (size_t e = 0; e < load.size(); ++e) sum[e] += static_cast<int64_t>(load[e]);
    }
    loads.push_back(total);
  }
  return loads;
}

void update_biases(nn::Gpt& model, const std::vector<Tensor>& loads) {
  const std::vector<MoeLayerRef> layers = moe_layers(model);
  PM_CHECK(loads.size() == layers.size(), "update_biases: loads of ", loads.size(), " layers for ",
           layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const Router& router = layers[i].moe->router();
    if (router.has_bias()) router.update_bias(loads[i]);
  }
}

}  // namespace pyramoe::moe
