// From a config to a whole model: names, recompute, loads over micro-batches, and upcycling.
#include "moe/upcycle.h"
#include "tests/moe/support.h"

namespace pyramoe::moe {
namespace {

const nn::Build kBuild{DType::f64, kCpu};

ModelConfig pyramid() {
  ModelConfig config = small_config();
  config.layers = 4;
  config.dim = 6;
  config.heads = 2;
  config.context = 8;
  config.experts = "0 3 0 5";
  config.top_k = 2;
  return config;
}

Tensor token_ids(int64_t batch, int64_t length, uint64_t seed) {
  Tensor ids({batch, length}, DType::i32);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    ids.data<int32_t>()[i] =
        static_cast<int32_t>(random_u32({seed, RngPurpose::test}, static_cast<uint64_t>(i)) % 17);
  }
  return ids;
}

std::vector<std::string> names(nn::Gpt& model, const std::string& prefix) {
  std::vector<std::string> found;
  for (const nn::Parameter* p : model.parameters(true)) {
    if (p->name.rfind(prefix, 0) != 0) continue;
    found.push_back(p->name.substr(prefix.size()) + " " + to_string(p->var.shape()));
  }
  return found;
}

TEST(BuildModel, NamesParametersByTheirPlace) {
  ModelConfig config = pyramid();
  config.gate = "sigmoid_bias";
  const auto plain = build_model(config, kBuild, false);
  EXPECT_EQ(
      names(*plain, "blocks.1.ffn."),
      (std::vector<std::string>{"router.weight (3, 6)", "router.balance_bias (3)",
                                "experts.up.weight (3, 7, 6)", "experts.down.weight (3, 6, 7)",
                                "experts.up.bias (3, 7)", "experts.down.bias (3, 6)"}));
  EXPECT_EQ(names(*plain, "blocks.2.ffn.").size(), 4u);
  config.gate = "softmax";
  config.residual = true;
  config.residual_mix = "learned";
  config.shared_hidden = 9;
  const auto residual = build_model(config, kBuild, false);
  EXPECT_EQ(
      names(*residual, "blocks.3.ffn."),
      (std::vector<std::string>{"moe.router.weight (5, 6)", "moe.experts.up.weight (5, 7, 6)",
                                "moe.experts.down.weight (5, 6, 7)", "moe.experts.up.bias (5, 7)",
                                "moe.experts.down.bias (5, 6)", "mlp.up.weight (9, 6)",
                                "mlp.up.bias (9)", "mlp.down.weight (6, 9)", "mlp.down.bias (6)",
                                "mix.weight (2, 6)", "mix.bias (2)"}));
}

TEST(BuildModel, ExpertsStartAllDifferent) {
  const auto model = build_model(pyramid(), kBuild, false);
  model->initialise(3);
  for (const char* name : {"blocks.3.ffn.experts.up.weight", "blocks.3.ffn.experts.down.weight"}) {
    const Tensor w = value(*model, name);
    for (int64_t a = 0; a < 5; ++a) {
      for (int64_t b = 0; b < a; ++b) EXPECT_FALSE(near(w.rows(a, a + 1), w.rows(b, b + 1), 1e-6));
    }
  }
}

struct Step {
  std::map<std::string, Tensor> grads;
  Tensor logits;
  std::vector<nn::LayerStat> stats;
};

Step step(nn::Gpt& model, const Tensor& ids) {
  nn::Context context = context_of(0, 0, true);
  for (const nn::Parameter* p : model.parameters()) {
    p->var.place_grad(Tensor::zeros(p->var.shape(), p->var.dtype()));
  }
  const nn::GptOut out = model.forward(ids, context);
  Vars roots{out.logits};
  Tensors seeds{normal(out.logits.shape(), 9)};
  for (const Vars& losses : {out.balance_loss, out.z_loss}) {
    for (const Var& loss : losses) {
      roots.push_back(loss);
      seeds.push_back(Tensor::full({1}, loss.dtype(), 0.1));
    }
  }
  backward(roots, seeds);
  Step result{{}, out.logits.value(), context.stats};
  for (const nn::Parameter* p : model.parameters()) result.grads[p->name] = p->var.grad();
  return result;
}

// S4 and S13: the second pass of a block routes as the first did and reports nothing.
TEST(BuildModel, RecomputingABlockChangesNoBit) {
  for (const char* noise : {"jitter", "rsample"}) {
    ModelConfig config = pyramid();
    config.noise = noise;
    config.capacity_factor = 0.75;
    config.drop_by = "random";
    config.residual = true;
    config.z_coef = 0.1;
    config.dropout = 0.1;
    const auto keep = build_model(config, kBuild, false), again = build_model(config, kBuild, true);
    keep->initialise(3);
    again->initialise(3);
    const Tensor ids = token_ids(4, 8, 1);
    const Step a = step(*keep, ids), b = step(*again, ids);
    EXPECT_TRUE(equal(a.logits, b.logits));
    for (const auto& [name, grad] : a.grads) EXPECT_TRUE(equal(grad, b.grads.at(name))) << name;
    ASSERT_EQ(a.stats.size(), 2u);
    ASSERT_EQ(b.stats.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(equal(a.stats[i].balance_loss, b.stats[i].balance_loss));
      EXPECT_EQ(a.stats[i].dropped(), b.stats[i].dropped());
      EXPECT_GT(a.stats[i].dropped(), 0);
    }
  }
}

TEST(BuildModel, BiasesMoveByTheLoadsOfAllMicroBatches) {
  ModelConfig config = pyramid();
  config.gate = "sigmoid_bias";
  config.bias_rate = 0.5;
  const auto model = build_model(config, kBuild, false);
  model->initialise(3);
  const Step whole = step(*model, token_ids(4, 8, 1));
  Tensors halves;
  std::vector<nn::LayerStat> stats;
  for (int64_t i = 0; i < 2; ++i) {
    const Step half = step(*model, token_ids(4, 8, 1).rows(2 * i, 2 * i + 2));
    stats.insert(stats.end(), half.stats.begin(), half.stats.end());
  }
  const std::vector<Tensor> loads = sum_loads(*model, stats);
  ASSERT_EQ(loads.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(loads[i].to_vector(), sum_loads(*model, whole.stats)[i].to_vector());
  }
  update_biases(*model, loads);
  const std::vector<double> load = loads[1].to_vector();
  const std::vector<double> bias = value(*model, "blocks.3.ffn.router.balance_bias").to_vector();
  for (size_t e = 0; e < 5; ++e) {
    const double mean = 4 * 8 * 2 / 5.0;
    EXPECT_EQ(bias[e], load[e] < mean ? 0.5 : -0.5);
  }
}

// ---- upcycling

ModelConfig dense_of(ModelConfig config) {
  config.experts = "0";
  config.hidden = config.moe_hidden();
  config.top_k = 1;
  config.residual = false;
  return config;
}

Tensor eval_logits(nn::Gpt& model, const Tensor& ids) {
  const NoGrad no_grad;
  nn::Context context = context_of(0, 0, false);
  return model.forward(ids, context).logits.value();
}

TEST(Upcycle, StartsEqualToTheDenseModel) {
  const Tensor ids = token_ids(3, 8, 1);
  for (const char* mix : {"", "sum", "learned"}) {
    for (const char* gate : {"softmax", "sigmoid_bias"}) {
      ModelConfig config = pyramid();
      config.hidden = config.moe_hidden();  // dense blocks of the MoE model too
      config.gate = gate;
      config.renormalize = true;
      config.residual = mix[0] != 0;
      if (config.residual) config.residual_mix = mix;
      const auto dense = build_model(dense_of(config), kBuild, false);
      const auto moe = build_model(config, kBuild, false);
      dense->initialise(1);
      moe->initialise(2);
      for (const nn::Parameter* p : dense->parameters()) {  // biases and norms not at their start
        const Tensor w = p->var.value();
        w.copy_from(normal(w.shape(), hash_name(p->name), 0.4));
      }
      EXPECT_FALSE(near(eval_logits(*moe, ids), eval_logits(*dense, ids), 1e-3));
      upcycle(*dense, *moe);
      EXPECT_TRUE(near(eval_logits(*moe, ids), eval_logits(*dense, ids), 1e-12)) << mix << gate;
    }
  }
}

TEST(Upcycle, NamesWhatDoesNotFit) {
  const auto refuse = [](const ModelConfig& from, const ModelConfig& to, const std::string& name) {
    const auto dense = build_model(from, kBuild, false), moe = build_model(to, kBuild, false);
    dense->initialise(1);
    moe->initialise(2);
    try {
      upcycle(*dense, *moe);
      FAIL() << "accepted a misfit of " << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::config);
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  };
  ModelConfig config = pyramid();
  config.hidden = config.moe_hidden();
  ModelConfig wide = dense_of(config), deep = dense_of(config);
  wide.hidden = 8;
  deep.layers = 5;
  refuse(wide, config, "ffn.");
  refuse(deep, config, "blocks.4.");
  config.layers = 6;
  config.experts = "0 3 0 5 0 0";
  refuse(deep, config, "blocks.5.");
}

}  // namespace
}  // namespace pyramoe::moe
