// The optimizer kernels against plain loops in the order of torch.optim.
#include "core/kernels/adam.h"

#include <bit>
#include <cmath>

#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

constexpr double kLr = 3e-3, kClip = 0.7;
const kernels::AdamWOptions options = {
    .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

Tensor scalars(int step, bool skip = false) {
  return Tensor::from(
      std::vector<double>{kLr, 1 - std::pow(options.beta1, step), 1 - std::pow(options.beta2, step),
                          kClip, skip ? 1.0 : 0.0, 42},
      {6});
}

// One element through `steps` AdamW steps, decay first.
double naive_adamw(double w, double g, int steps) {
  double m = 0, v = 0;
  for (int t = 1; t <= steps; ++t) {
    const double c = kClip * g;
    w *= 1 - kLr * options.weight_decay;
    m = options.beta1 * m + (1 - options.beta1) * c;
    v = options.beta2 * v + (1 - options.beta2) * c * c;
    const double m_hat = m / (1 - std::pow(options.beta1, t));
    const double v_hat = v / (1 - std::pow(options.beta2, t));
    w -= kLr * m_hat / (std::sqrt(v_hat) + options.eps);
  }
  return w;
}

TEST(AdamW, FollowsThePlainLoopInEveryPrecision) {
  for (int64_t n : {1, 31, 16385}) {
    const Tensor w0 = normal({n}).make(1), g0 = normal({n}).make(2);
    for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      const DType kept = dtype == DType::f64 ? DType::f64 : DType::f32;
      const Tensor g = g0.to(dtype);
      Tensor master = w0.to(kept).clone(), param(Shape{n}, dtype);
      const std::vector<double> before = master.to_vector(), grad = g.to_vector();
      Tensor m = zeros_like(master), v = zeros_like(master);
      for (int t = 1; t <= 5; ++t) {
        kernels::adamw_step(g, options, scalars(t), master, m, v, param);
      }
      const double relative = kept == DType::f64 ? 4e-15 : 5e-6;
      for (size_t i = 0; i < before.size(); ++i) {
        const double want = naive_adamw(before[i], grad[i], 5);
        ASSERT_NEAR(master.to_vector()[i], want, relative * std::max(std::abs(want), 0.05)) << i;
        if (n > 100 && i > 200) break;
      }
      EXPECT_EQ(param.to_vector(), master.to(dtype).to_vector());
    }
  }
}

TEST(AdamW, UpdatesAParameterThatIsItsOwnMaster) {
  Tensor w = normal({37}).make(1), apart = w.clone(), param = empty_like(w);
  const Tensor g = normal({37}).make(2);
  Tensor m = zeros_like(w), v = zeros_like(w), m2 = m.clone(), v2 = v.clone();
  kernels::adamw_step(g, options, scalars(1), w, m, v, w);
  kernels::adamw_step(g, options, scalars(1), apart, m2, v2, param);
  EXPECT_EQ(w.to_vector(), apart.to_vector());
  EXPECT_EQ(w.to_vector(), param.to_vector());
}

TEST(AdamW, WritesNothingWhenTheSkipFlagIsSet) {
  const Tensor g = Tensor::full({5}, DType::f32, NAN);
  Tensor w = Tensor::full({5}, DType::f32, 1), m = Tensor::full({5}, DType::f32, 2),
         v = Tensor::full({5}, DType::f32, 3);
  kernels::adamw_step(g, options, scalars(1, true), w, m, v, w);
  kernels::sgd_step(g, 0.9, 0.1, scalars(1, true), w, m, w);
  EXPECT_EQ(w.to_vector(), std::vector<double>(5, 1));
  EXPECT_EQ(m.to_vector(), std::vector<double>(5, 2));
  EXPECT_EQ(v.to_vector(), std::vector<double>(5, 3));
}

TEST(AdamWRounded, RoundsUpAsOftenAsTheMeanNeeds) {
  // A quarter of the way from 1 to the next bf16: up in a quarter of the draws.
  const uint32_t bits = std::bit_cast<uint32_t>(1.0f + 0x1p-9f);
  const RngKey key{.seed = 1, .purpose = RngPurpose::weight_rounding};
  int up = 0;
  for (uint64_t i = 0; i < 40000; ++i) {
    const kernels::RoundingBits random = kernels::rounding_bits(philox(key, i >> 1), i);
    for (uint32_t r : {random.param, random.m, random.v}) {
      const uint16_t y = kernels::round_at_random(bits, r);
      ASSERT_TRUE(y == 0x3f80 || y == 0x3f81);
      up += y == 0x3f81;
    }
  }
  EXPECT_NEAR(up / 120000.0, 0.25, 5 * std::sqrt(0.25 * 0.75 / 120000));
  for (float x : {INFINITY, -INFINITY, -2.5f, 0.0f}) {
    EXPECT_EQ(kernels::round_at_random(std::bit_cast<uint32_t>(x), 0xffff), BFloat16(x).bits);
  }
  const uint16_t nan = kernels::round_at_random(0x7f800001u, 0xffff);
  EXPECT_TRUE(std::isnan(std::bit_cast<float>(static_cast<uint32_t>(nan) << 16)));
}

TEST(AdamWRounded, MovesWeightsThatRoundingToNearestWouldFreeze) {
  // Steps of 2e-4 where neighbours are 2^-8 = 3.9e-3 apart.
  const int64_t n = 20000;
  Tensor w = Tensor::full({n}, DType::bf16, 0.75), m = Tensor::full({n}, DType::bf16, 0),
         v = Tensor::full({n}, DType::bf16, 0);
  const Tensor g = Tensor::full({n}, DType::bf16, 0.5);
  const kernels::AdamWOptions plain{.weight_decay = 0};
  const RngKey key{.seed = 3, .purpose = RngPurpose::weight_rounding};
  const int steps = 10;
  const double lr = 2e-4;
  for (int t = 1; t <= steps; ++t) {
    const Tensor now = Tensor::from(
        std::vector<double>{lr, 1 - std::pow(plain.beta1, t), 1 - std::pow(plain.beta2, t), 1, 0, 0,
                            static_cast<double>(t)},
        {7});
    kernels::adamw_step_rounded(g, plain, now, key, 0, w, m, v);
  }
  double mean = 0;
  for (double x : w.to_vector()) mean += x / static_cast<double>(n);
  EXPECT_NEAR(mean, 0.75 - steps * lr, 1e-4);  // the gradient never changes: each step is lr
}

TEST(AdamWRounded, IsTheSameNumbersInOneCallAndInTwo) {
  const int64_t n = 1001, cut = 333;
  const Tensor g = normal({n}).make(1).to(DType::bf16);
  const Tensor now = Tensor::from(std::vector<double>{1e-2, 0.1, 0.05, 1, 0, 0, 9}, {7});
  const RngKey key{.seed = 3, .purpose = RngPurpose::weight_rounding};
  Tensors whole, parts;
  for (uint64_t i = 0; i < 3; ++i) {
    whole.push_back(Tensor::full({n}, DType::bf16, 0.1));
    parts.push_back(whole[i].clone());
  }
  kernels::adamw_step_rounded(g, options, now, key, 40, whole[0], whole[1], whole[2]);
  for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, n}}) {
    Tensor w = parts[0].rows(begin, end), m = parts[1].rows(begin, end),
           v = parts[2].rows(begin, end);
    kernels::adamw_step_rounded(g.rows(begin, end), options, now, key, 40 + begin, w, m, v);
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(whole[i].to_vector(), parts[i].to_vector());
  const Tensor skip = Tensor::from(std::vector<double>{1e-2, 0.1, 0.05, 1, 1, 0, 9}, {7});
  kernels::adamw_step_rounded(g, options, skip, key, 40, whole[0], whole[1], whole[2]);
  EXPECT_EQ(whole[0].to_vector(), parts[0].to_vector());
}

TEST(Sgd, FollowsThePlainLoopWithAndWithoutMomentum) {
  for (double momentum : {0.0, 0.9}) {
    Tensor w = normal({33}).make(1);
    const Tensor start = w.clone(), g = normal({33}).make(2);
    Tensor m = momentum > 0 ? zeros_like(w) : Tensor();
    for (int t = 1; t <= 3; ++t) kernels::sgd_step(g, momentum, 0.1, scalars(t), w, m, w);
    for (size_t i = 0; i < 33; ++i) {
      double want = start.to_vector()[i], buffer = 0;
      for (int t = 0; t < 3; ++t) {
        buffer = momentum * buffer + kClip * g.to_vector()[i] + 0.1 * want;
        want -= kLr * buffer;
      }
      EXPECT_NEAR(w.to_vector()[i], want, 1e-14);
    }
  }
}

}  // namespace
}  // namespace pyramoe::optest
