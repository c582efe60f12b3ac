// The optimizer kernels against plain loops in the order of torch.optim.
#include "core/kernels/adam.h"

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
