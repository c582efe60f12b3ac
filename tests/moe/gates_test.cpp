// A row per gate, and what noise and the balancing bias do to a choice.
#include "autograd/ops.h"
#include "core/kernels/moe.h"
#include "tests/moe/support.h"

namespace pyramoe::moe {
namespace {

struct Row {
  const char* gate;
  int64_t top_k;
  std::vector<double> logits, bias;
  std::vector<int32_t> expert;
  std::vector<double> weight;
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST(Gates, ChooseAndWeighAsTheirFilesSay) {
  const double l2 = std::log(2.0);
  const std::vector<Row> rows = {
      {"softmax", 1, {0, l2, 0}, {}, {1}, {0.5}},
      {"softmax", 2, {0, l2, 0}, {}, {1, 0}, {0.5, 0.25}},  // ties go to the lower id
      {"softmax", 3, {1, 1, 1}, {}, {0, 1, 2}, {1. / 3, 1. / 3, 1. / 3}},
      {"softmax", 9, {9, 8, 7, 6, 5, 4, 3, 2, 1}, {}, {0, 1, 2, 3, 4, 5, 6, 7, 8}, {}},
      {"softmax", 9, {1, 1, 2, 1, 3, 1, 1, 1, 1, 1}, {}, {4, 2, 0, 1, 3, 5, 6, 7, 8}, {}},
      {"sigmoid_bias", 1, {0, l2, 0}, {0, 0, 0}, {1}, {2. / 3}},
      {"sigmoid_bias", 2, {1, 3, 2}, {0, 0, 0}, {1, 2}, {sigmoid(3), sigmoid(2)}},
      {"sigmoid_bias", 1, {1, 3, 2}, {0.5, 0, 0}, {0}, {sigmoid(1)}},  // steered, weight without it
  };
  for (const Row& row : rows) {
    const auto e = static_cast<int64_t>(row.logits.size());
    const Tensor logits = Tensor::from(row.logits, {1, e});
    const Tensor bias = row.bias.empty() ? Tensor() : Tensor::from(row.bias, {e});
    const auto gate = make_gate(row.gate);
    EXPECT_EQ(gate->has_bias(), bias.defined());
    const Choice choice = gate->choose({Var(logits), logits, bias, row.top_k});
    EXPECT_EQ(std::vector<int32_t>(choice.expert.span<int32_t>().begin(),
                                   choice.expert.span<int32_t>().end()),
              row.expert)
        << row.gate;
    const std::vector<double> weight = ops::take(choice.score, choice.expert).value().to_vector();
    for (size_t j = 0; j < row.weight.size(); ++j) EXPECT_NEAR(weight[j], row.weight[j], 1e-15);
    double sum = 0;
    for (double p : choice.probability.value().to_vector()) sum += p;
    EXPECT_NEAR(sum, 1, 1e-15);
  }
}

TEST(Gates, EveryNameMakesAGateAndOthersAreRefused) {
  for (const std::string& name : gate_names()) EXPECT_NE(make_gate(name), nullptr);
  try {
    make_gate("soft-max");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::config);
    EXPECT_NE(std::string(error.what()).find("softmax, sigmoid_bias"), std::string::npos);
  }
}

// Gumbel noise turns the largest logit into a draw from the softmax: 40,000 draws, 5 sigma.
TEST(Gates, RsampleDrawsFromTheSoftmax) {
  constexpr int64_t kDraws = 40000, kExperts = 3;
  const std::vector<double> p = {0.2, 0.5, 0.3};
  Tensor logits({kDraws, kExperts}, DType::f64), noisy = empty_like(logits);
  for (int64_t i = 0; i < logits.numel(); ++i) {
    logits.data<double>()[i] = std::log(p[static_cast<size_t>(i % kExperts)]);
  }
  kernels::add_gumbel(logits, {1, RngPurpose::gate_rsample}, 0, noisy);
  const Choice choice = make_gate("softmax")->choose({Var(logits), noisy, Tensor(), 1});
  std::vector<double> count(kExperts);
  for (int32_t e : choice.expert.span<int32_t>()) count[static_cast<size_t>(e)] += 1;
  for (size_t e = 0; e < kExperts; ++e) {
    const double sigma = std::sqrt(kDraws * p[e] * (1 - p[e]));
    EXPECT_NEAR(count[e], kDraws * p[e], 5 * sigma);
  }
  // The weight is the probability without the noise.
  const Tensor weight = ops::take(choice.score, choice.expert).value();
  for (int64_t n = 0; n < 50; ++n) {
    const auto e = static_cast<size_t>(choice.expert.data<int32_t>()[n]);
    EXPECT_NEAR(weight.data<double>()[n], p[e], 1e-15);
  }
}

TEST(Gates, JitterStaysWithinItsWidth) {
  const Tensor x = Tensor::full({100, 7}, DType::f64, 2);
  const std::vector<double> y =
      ops::jitter(Var(x), 0.1, {1, RngPurpose::gate_jitter}, 3).value().to_vector();
  double low = 10, high = 0;
  for (double v : y) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  EXPECT_GE(low, 1.8);
  EXPECT_LT(high, 2.2);
  EXPECT_LT(low, 1.81);
  EXPECT_GT(high, 2.19);
}

// Scores whose sum is below epsilon are divided by epsilon, a constant: no score pulls on another.
TEST(Gates, AVanishingSumIsAConstantToTheGradient) {
  constexpr double eps = 0x1p-52;
  const Tensor score = Tensor::from(std::vector<double>{0x1p-60, 0x1p-61}, {1, 2});
  const Tensor row = Tensor::from(std::vector<int32_t>{0, 1}, {1, 2});
  const Var a(score, true), b(score, true);
  const Var shares = ops::normalize_rows(a), kept = ops::keep_weights(b, row, true);
  for (const Var& y : {shares, kept}) {
    EXPECT_EQ(y.value().to_vector(), (std::vector<double>{0x1p-8, 0x1p-9}));
    backward(y, Tensor::from(std::vector<double>{1, 0}, {1, 2}));
  }
  for (const Var& x : {a, b}) {
    EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{1 / eps, 0}));
  }
}

TEST(Capacity, IsTheEvenShareTimesTheFactor) {
  EXPECT_EQ(expert_capacity(12, 4, 1, 1.0, 1), 3);
  EXPECT_EQ(expert_capacity(12, 4, 2, 0.75, 1), 5);    // 4.5
  EXPECT_EQ(expert_capacity(12, 4, 1, 0.1, 4), 4);     // the minimum
  EXPECT_EQ(expert_capacity(12, 4, 1, 100, 1), 12);    // never more than all tokens
  EXPECT_EQ(expert_capacity(2, 4, 1, 1, 4), 2);        // the minimum neither
  EXPECT_EQ(expert_capacity(100, 10, 1, 1.1, 1), 11);  // 11.000000000000002 in binary
  EXPECT_EQ(expert_capacity(101, 10, 1, 1.1, 1), 12);
}

// The bias rises for experts below the mean load and falls above it; at the mean it stays.
TEST(SigmoidBias, MovesAgainstTheLoad) {
  ModelConfig config = small_config();
  config.gate = "sigmoid_bias";
  config.bias_rate = 0.25;
  const Router router(config, {FfnKind::moe, 4, 1, 1}, nn::Build{DType::f32, kCpu});
  const auto load = [](std::vector<int64_t> v) { return Tensor::from(v, {4}); };
  router.update_bias(load({5, 3, 4, 4}));
  EXPECT_EQ(router.bias().to_vector(), (std::vector<double>{-0.25, 0.25, 0, 0}));
  router.update_bias(load({1, 0, 0, 0}));
  EXPECT_EQ(router.bias().to_vector(), (std::vector<double>{-0.5, 0.5, 0.25, 0.25}));
}

// Aux-loss-free balancing does its job: a skewed router evens out within some steps.
TEST(SigmoidBias, EvensOutASkewedRouter) {
  ModelConfig config = small_config();
  config.gate = "sigmoid_bias";
  config.bias_rate = 0.005;
  const auto layer = make_layer(config, 4);
  const Router& router = dynamic_cast<MoeLayer&>(*layer).router();
  const Tensor x = normal({512, 5}, 3);
  const nn::Context context = context_of(1, 512, true);
  const auto worst = [&](const Routing& r) {
    const std::vector<double> load = r.load.to_vector();
    return *std::max_element(load.begin(), load.end()) / 128;
  };
  const NoGrad no_grad;
  const double before = worst(router.route(Var(x), context));
  for (int step = 0; step < 500; ++step) {
    router.update_bias(router.route(Var(x), context).load);
  }
  EXPECT_GT(before, 1.4);
  EXPECT_LT(worst(router.route(Var(x), context)), 1.15);
}

}  // namespace
}  // namespace pyramoe::moe
