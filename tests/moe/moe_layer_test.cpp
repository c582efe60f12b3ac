// What a layer of experts must satisfy, whatever its numbers: relations to a dense MLP, to other
// orders and other cuts of the same tokens.
#include <numeric>

#include "autograd/ops.h"
#include "nn/mlp.h"
#include "tests/moe/support.h"

namespace pyramoe::moe {
namespace {

constexpr int64_t kBatch = 4, kLength = 6, kTokens = kBatch * kLength, kDim = 5, kExperts = 4;

Tensor tokens() { return normal({kTokens, kDim}, 1); }
Tensor gradient() { return normal({kTokens, kDim}, 2); }

// The dense MLP with the weights of expert 0.
std::unique_ptr<nn::Mlp> expert_as_mlp(nn::FeedForward& layer) {
  auto mlp = std::make_unique<nn::Mlp>(kDim, 7, 0.1, 0.1, nn::Build{DType::f64, kCpu});
  for (const char* name : {"up.weight", "up.bias", "down.weight", "down.bias"}) {
    const Tensor to = value(*mlp, name);
    to.copy_from(value(layer, std::string("experts.") + name).rows(0, 1).reshape(to.shape()));
  }
  return mlp;
}

// M3.
TEST(MoeLayer, WithOneExpertIsADenseMlp) {
  ModelConfig config = small_config();
  const auto layer = make_layer(config, 1);
  const auto mlp = expert_as_mlp(*layer);
  const nn::Context context = context_of(kBatch, kLength, true);
  const Pass moe = run(*layer, tokens(), context, gradient()),
             dense = run(*mlp, tokens(), context, gradient());
  EXPECT_TRUE(near(moe.y, dense.y, 1e-14));
  EXPECT_TRUE(near(moe.dx, dense.dx, 1e-14));
  for (const char* name : {"up.weight", "up.bias", "down.weight", "down.bias"}) {
    const Tensor grad = dense.grads.at(name);
    EXPECT_TRUE(
        near(moe.grads.at(std::string("experts.") + name).reshape(grad.shape()), grad, 1e-13))
        << name;
  }
  EXPECT_EQ(moe.balance_loss.item(), 1);
}

TEST(MoeLayer, WithEqualExpertsAndRenormalisedWeightsIsADenseMlp) {
  for (int64_t k : {1, 2, 3}) {
    ModelConfig config = small_config();
    config.top_k = k;
    config.renormalize = true;
    const auto layer = make_layer(config, kExperts);
    for (const nn::Parameter* p : layer->parameters()) {
      if (!p->expert) continue;
      const Tensor all = p->var.value();
      for (int64_t e = 1; e < kExperts; ++e) all.rows(e, e + 1).copy_from(all.rows(0, 1));
    }
    const auto mlp = expert_as_mlp(*layer);
    const nn::Context context = context_of(kBatch, kLength, true);
    const Pass moe = run(*layer, tokens(), context, gradient(), 0),
               dense = run(*mlp, tokens(), context, gradient());
    EXPECT_TRUE(near(moe.y, dense.y, 1e-13)) << k;
    EXPECT_TRUE(near(moe.dx, dense.dx, 1e-13)) << k;
  }
}

// M1.
TEST(MoeLayer, RelabellingExpertsChangesNothing) {
  ModelConfig config = small_config();
  config.top_k = 2;
  config.capacity_factor = 1;
  config.drop_by = "probability";
  config.renormalize = true;
  const auto a = make_layer(config, kExperts), b = make_layer(config, kExperts);
  const std::vector<int64_t> label = {2, 0, 3, 1};
  const auto relabel = [&](const Tensor& from, const Tensor& to) {
    for (int64_t e = 0; e < kExperts; ++e) {
      const int64_t at = label[static_cast<size_t>(e)];
      to.rows(at, at + 1).copy_from(from.rows(e, e + 1));
    }
  };
  for (const nn::Parameter* p : a->parameters()) relabel(p->var.value(), value(*b, p->name));
  const nn::Context context = context_of(kBatch, kLength, true);
  const Pass before = run(*a, tokens(), context, gradient()),
             after = run(*b, tokens(), context, gradient());
  EXPECT_GT(before.stats.at(0).dropped(), 0);
  EXPECT_TRUE(near(after.y, before.y, 1e-14));
  EXPECT_TRUE(near(after.dx, before.dx, 1e-13));
  EXPECT_TRUE(near(after.balance_loss, before.balance_loss, 1e-14));
  for (const auto& [name, grad] : before.grads) {
    const Tensor moved = empty_like(grad);
    relabel(grad, moved);
    EXPECT_TRUE(near(after.grads.at(name), moved, 1e-13)) << name;
  }
}

// M2: a token's result does not depend on its neighbours, bit for bit.
TEST(MoeLayer, PermutingTokensPermutesTheOutputBitwise) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    ModelConfig config = small_config();
    config.top_k = 2;
    const auto layer = make_layer(config, kExperts, dtype);
    const Tensor x = tokens().to(dtype), moved = empty_like(x);
    const auto place = [](int64_t n) { return n * 7 % kTokens; };
    for (int64_t n = 0; n < kTokens; ++n) {
      moved.rows(place(n), place(n) + 1).copy_from(x.rows(n, n + 1));
    }
    const nn::Context context = context_of(kBatch, kLength, true);
    const Pass a = run(*layer, x, context, gradient().to(dtype));
    const Pass b = run(*layer, moved, context, gradient().to(dtype));
    for (int64_t n = 0; n < kTokens; ++n) {
      EXPECT_TRUE(equal(b.y.rows(place(n), place(n) + 1), a.y.rows(n, n + 1))) << to_string(dtype);
    }
  }
}

// M4: a batch of four groups is two micro-batches of two, gradients averaged, noise and drops
// included.
TEST(MoeLayer, SplittingABatchIntoMicroBatchesChangesNothing) {
  for (const char* noise : {"none", "jitter", "rsample"}) {
    for (const char* drop_by : {"position", "probability", "random"}) {
      ModelConfig config = small_config();
      config.top_k = 2;
      config.group = 2;
      config.capacity_factor = 0.75;
      config.drop_by = drop_by;
      config.noise = noise;
      config.jitter = 0.3;
      config.renormalize = true;
      config.residual = true;
      config.residual_mix = "learned";
      config.z_coef = 0.1;
      const auto layer = make_layer(config, kExperts);
      const Tensor x = tokens(), dy = gradient();
      nn::Context whole = context_of(kBatch, kLength, true);
      whole.first_sequence = 8;
      const Pass all = run(*layer, x, whole, dy);
      EXPECT_GT(all.stats.at(0).dropped(), 0);
      std::vector<Pass> half;
      for (int64_t i = 0; i < 2; ++i) {
        nn::Context context = context_of(2, kLength, true);
        context.first_sequence = 8 + 2 * i;
        const int64_t begin = i * kTokens / 2, end = (i + 1) * kTokens / 2;
        half.push_back(run(*layer, x.rows(begin, end), context, dy.rows(begin, end), 0.15));
        EXPECT_TRUE(near(half.back().y, all.y.rows(begin, end), 1e-14)) << noise << drop_by;
        EXPECT_TRUE(near(half.back().dx, all.dx.rows(begin, end), 1e-13)) << noise << drop_by;
      }
      const double balance = half[0].balance_loss.item() + half[1].balance_loss.item();
      EXPECT_NEAR(all.balance_loss.item(), balance / 2, 1e-14);
      for (const auto& [name, grad] : all.grads) {
        Tensor sum = half[0].grads.at(name).clone();
        for (int64_t j = 0; j < sum.numel(); ++j) {
          sum.data<double>()[j] += half[1].grads.at(name).data<double>()[j];
        }
        EXPECT_TRUE(near(sum, grad, 1e-13)) << name << ", " << noise << ", " << drop_by;
      }
    }
  }
}

// Evaluation: the same layer with noise and a tight capacity gives what a plain one gives, for any
// seed and step and any batch.
TEST(MoeLayer, EvaluationHasNoNoiseAndDropsNothing) {
  for (const char* noise : {"jitter", "rsample"}) {
    ModelConfig config = small_config();
    config.top_k = 2;
    const auto plain = make_layer(config, kExperts);
    config.noise = noise;
    config.capacity_factor = 0.25;
    config.drop_by = "random";
    config.group = 3;  // does not divide the batch: of no matter here
    const auto noisy = make_layer(config, kExperts);
    const Pass want = run(*plain, tokens(), context_of(kBatch, kLength, false), gradient());
    for (int64_t step : {0, 1}) {
      nn::Context context = context_of(kBatch, kLength, false);
      context.step = step;
      const Pass got = run(*noisy, tokens(), context, gradient());
      EXPECT_TRUE(equal(got.y, want.y)) << noise;
      EXPECT_EQ(got.stats.at(0).dropped(), 0);
      EXPECT_FALSE(got.balance_loss.defined());
    }
  }
}

TEST(MoeLayer, NoiseFollowsSeedAndStepInTraining) {
  for (const char* noise : {"jitter", "rsample"}) {
    ModelConfig config = small_config();
    config.noise = noise;
    config.jitter = 0.5;
    const auto layer = make_layer(config, kExperts);
    nn::Context context = context_of(kBatch, kLength, true);
    const Pass a = run(*layer, tokens(), context, gradient());
    EXPECT_TRUE(equal(run(*layer, tokens(), context, gradient()).y, a.y)) << noise;
    context.step += 1;
    EXPECT_FALSE(equal(run(*layer, tokens(), context, gradient()).y, a.y)) << noise;
  }
}

// Where there is one expert the gate's choice and weight are sure whatever it sees, so noise that
// reached more than the gate would show.
TEST(MoeLayer, NoiseReachesTheGateAlone) {
  for (const char* noise : {"jitter", "rsample"}) {
    ModelConfig config = small_config();
    const auto plain = make_layer(config, 1);
    config.noise = noise;
    config.jitter = 0.5;
    const auto noisy = make_layer(config, 1);
    const nn::Context context = context_of(kBatch, kLength, true);
    expect_near(run(*noisy, tokens(), context, gradient()),
                run(*plain, tokens(), context, gradient()), 0);
  }
}

TEST(MoeLayer, RefusesGroupsThatDoNotDivideTheMicroBatch) {
  ModelConfig config = small_config();
  config.group = 3;
  const auto layer = make_layer(config, kExperts);
  try {
    run(*layer, tokens(), context_of(kBatch, kLength, true), gradient());
    FAIL() << "accepted a group of 3 in a batch of 4";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::config);
    EXPECT_NE(std::string(error.what()).find("2 or 4"), std::string::npos) << error.what();
  }
}

TEST(MoeLayer, ForcedBalanceGivesEveryExpertTheSame) {
  ModelConfig config = small_config();
  config.top_k = 2;
  config.force_balance = true;
  config.capacity_factor = 1;
  const auto layer = make_layer(config, kExperts);
  const Pass got = run(*layer, tokens(), context_of(kBatch, kLength, true), gradient());
  for (double load : got.stats.at(0).load.to_vector()) EXPECT_EQ(load, kTokens * 2 / kExperts);
  EXPECT_EQ(got.stats.at(0).dropped(), 0);
}

TEST(MoeLayer, ReportsWhatItDid) {
  ModelConfig config = small_config();
  config.top_k = 2;
  config.capacity_factor = 0.5;
  config.z_coef = 1;
  const auto layer = make_layer(config, kExperts);
  nn::Context context = context_of(kBatch, kLength, true);
  context.keep_choices = true;
  const Pass got = run(*layer, tokens(), context, gradient());
  ASSERT_EQ(got.stats.size(), 1u);
  const nn::LayerStat& stat = got.stats[0];
  EXPECT_EQ(stat.layer, context.layer);
  EXPECT_EQ(stat.tokens, kTokens);
  const std::vector<double> load = stat.load.to_vector();
  EXPECT_EQ(std::accumulate(load.begin(), load.end(), 0.0), 2 * kTokens);
  EXPECT_GE(stat.dropped(), 4 * (12 - 4 * 2));  // 4 groups, 4 experts of capacity 2
  EXPECT_EQ(stat.balance_loss.item(), got.balance_loss.item());
  EXPECT_EQ(stat.z_loss.item(), got.z_loss.item());
  EXPECT_EQ(stat.expert.shape(), (Shape{kTokens, 2}));
}

// The z-loss is of the logits: by plain loops, the mean of squared log-sum-exps.
TEST(MoeLayer, TheZLossIsOfTheLogits) {
  ModelConfig config = small_config();
  config.z_coef = 1;
  const auto layer = make_layer(config, kExperts);
  const Pass got = run(*layer, tokens(), context_of(kBatch, kLength, true), gradient());
  const Tensor logits =
      ops::linear(Var(tokens()), Var(value(*layer, "router.weight")), Var()).value();
  double sum = 0;
  for (int64_t n = 0; n < kTokens; ++n) {
    double of_row = 0;
    for (const double v : logits.rows(n, n + 1).to_vector()) of_row += std::exp(v);
    sum += std::log(of_row) * std::log(of_row);
  }
  EXPECT_NEAR(got.z_loss.item(), sum / kTokens, 1e-13);
}

// R8, and S6: an expert that nobody chose gets a gradient of exactly zero.
TEST(MoeLayer, ExpertsWithoutTokensGetNoGradient) {
  ModelConfig config = small_config();
  const auto layer = make_layer(config, 16);
  const Pass got = run(*layer, tokens(), context_of(kBatch, kLength, true), gradient());
  const std::vector<double> load = got.stats.at(0).load.to_vector();
  int idle = 0;
  for (int64_t e = 0; e < 16; ++e) {
    if (load[static_cast<size_t>(e)] > 0) continue;
    ++idle;
    for (const auto& [name, grad] : got.grads) {
      if (name == "router.weight") continue;
      for (double g : grad.rows(e, e + 1).to_vector()) ASSERT_EQ(g, 0) << name;
    }
  }
  EXPECT_GT(idle, 0);
}

TEST(MoeLayer, ANotANumberTokenShowsInItsOutputAndNowhereElse) {
  ModelConfig config = small_config();
  config.top_k = 2;
  const auto layer = make_layer(config, kExperts);
  const Tensor x = tokens(), bad = x.clone();
  bad.data<double>()[3 * kDim] = NAN;
  const nn::Context context = context_of(kBatch, kLength, false);
  const Pass a = run(*layer, x, context, gradient()), b = run(*layer, bad, context, gradient());
  for (int64_t n = 0; n < kTokens; ++n) {
    if (n == 3) {
      EXPECT_TRUE(std::isnan(b.y.rows(n, n + 1).to_vector()[0]));
    } else {
      EXPECT_TRUE(equal(b.y.rows(n, n + 1), a.y.rows(n, n + 1))) << n;
    }
  }
}

// M7.
TEST(ResidualMoe, WithSilentExpertsIsItsMlp) {
  ModelConfig config = small_config();
  config.residual = true;
  const auto layer = make_layer(config, kExperts);
  value(*layer, "moe.experts.down.weight").zero();
  value(*layer, "moe.experts.down.bias").zero();
  nn::Mlp mlp(kDim, 7, 0.1, 0.1, nn::Build{DType::f64, kCpu});
  for (const nn::Parameter* p : mlp.parameters()) {
    p->var.value().copy_from(value(*layer, "mlp." + p->name));
  }
  const nn::Context context = context_of(kBatch, kLength, true);
  const Pass a = run(*layer, tokens(), context, gradient()),
             b = run(mlp, tokens(), context, gradient());
  EXPECT_TRUE(near(a.y, b.y, 0));
}

TEST(ResidualMoe, TheLearnedMixIsASoftmaxOfTwoPerToken) {
  ModelConfig config = small_config();
  config.residual = true;
  config.residual_mix = "learned";
  const auto layer = make_layer(config, kExperts);
  ModelConfig plain = config;
  plain.residual_mix = "sum";
  const auto sum = make_layer(plain, kExperts);
  const nn::Context context = context_of(kBatch, kLength, true);
  // A bias far to one side leaves one branch alone: index 0 is the experts, 1 the MLP.
  value(*layer, "mix.weight").zero();
  const auto alone = [&](double experts) {
    const Tensor bias = value(*layer, "mix.bias");
    bias.data<double>()[0] = experts;
    bias.data<double>()[1] = -experts;
    return run(*layer, tokens(), context, gradient()).y;
  };
  const Tensor moe = alone(500), mlp = alone(-500);
  const Tensor both = run(*sum, tokens(), context, gradient()).y;
  EXPECT_TRUE(near(alone(0), ops::scale(Var(both), 0.5).value(), 1e-14));
  const double share = 1 / (1 + std::exp(-1.0));  // of logits 0.5 and -0.5
  const Var mixed = ops::add(ops::scale(Var(moe), share), ops::scale(Var(mlp), 1 - share));
  EXPECT_TRUE(near(alone(0.5), mixed.value(), 1e-14));
  value(*sum, "mlp.down.weight").zero();
  value(*sum, "mlp.down.bias").zero();
  EXPECT_TRUE(near(moe, run(*sum, tokens(), context, gradient()).y, 1e-14));
  EXPECT_TRUE(near(ops::add(Var(moe), Var(mlp)).value(), both, 1e-14));
}

// S3: central differences of <dy, y> + aux (balance + z) along a random direction, for the input
// and every parameter. The choices are constants: the step is far smaller than any gap between
// logits.
TEST(ResidualMoe, GradientsMatchDifferencesSideLossesIncluded) {
  constexpr double kAux = 0.7, kStep = 1e-6;
  ModelConfig config = small_config();
  config.top_k = 2;
  config.capacity_factor = 0.75;
  config.renormalize = true;
  config.residual = true;
  config.residual_mix = "learned";
  config.z_coef = 1;
  for (const char* gate : {"softmax", "sigmoid_bias"}) {
    for (const char* balance : {"first", "all"}) {
      config.gate = gate;
      config.balance_loss = balance;
      const auto layer = make_layer(config, kExperts);
      const nn::Context context = context_of(kBatch, kLength, true);
      const Tensor x = tokens(), dy = gradient();
      const Pass at = run(*layer, x, context, dy, kAux);
      const auto objective = [&] {
        const Pass p = run(*layer, x, context, dy, kAux);
        double sum = kAux * (p.balance_loss.item() + p.z_loss.item());
        for (int64_t i = 0; i < dy.numel(); ++i)
          sum += dy.data<double>()[i] * p.y.data<double>()[i];
        return sum;
      };
      const auto check = [&](const std::string& name, const Tensor& place, const Tensor& grad) {
        const Tensor before = place.clone(), way = normal(place.shape(), hash_name(name));
        double slope = 0, side[2];
        for (int64_t i = 0; i < way.numel(); ++i) {
          slope += grad.data<double>()[i] * way.data<double>()[i];
        }
        for (int s : {0, 1}) {
          for (int64_t i = 0; i < way.numel(); ++i) {
            place.data<double>()[i] =
                before.data<double>()[i] + (s == 0 ? kStep : -kStep) * way.data<double>()[i];
          }
          side[s] = objective();
        }
        place.copy_from(before);
        EXPECT_NEAR((side[0] - side[1]) / (2 * kStep), slope, 1e-7 * (1 + std::abs(slope)))
            << name << ", " << gate << ", " << balance;
      };
      check("x", x, at.dx);
      for (const nn::Parameter* p : layer->parameters()) {
        check(p->name, p->var.value(), at.grads.at(p->name));
      }
    }
  }
}

// The same model in narrower types stays close to f64.
TEST(MoeLayer, RunsInEveryDtype) {
  ModelConfig config = small_config();
  config.top_k = 2;
  config.renormalize = true;
  config.residual = true;
  config.residual_mix = "learned";
  const nn::Context context = context_of(kBatch, kLength, true);
  const Pass exact = run(*make_layer(config, kExperts), tokens(), context, gradient());
  for (auto [dtype, tolerance] : {std::pair{DType::f32, 1e-5}, {DType::bf16, 0.15}}) {
    const auto layer = make_layer(config, kExperts, dtype);
    EXPECT_EQ(value(*layer, "moe.router.weight").dtype(), DType::f32);
    const Pass got = run(*layer, tokens().to(dtype), context, gradient().to(dtype));
    EXPECT_EQ(got.y.dtype(), dtype);
    EXPECT_EQ(got.balance_loss.dtype(), DType::f32);
    EXPECT_TRUE(near(got.y, exact.y, tolerance)) << to_string(dtype);
  }
}

}  // namespace
}  // namespace pyramoe::moe
