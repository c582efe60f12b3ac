// Rows of softmax.
#include <cmath>

#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

Tensor naive_softmax(const Tensor& x) {
  const int64_t d = x.dim(-1);
  const double* in = x.data<double>();
  return make(x.shape(), [&](int64_t i) {
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) sum += std::exp(in[i / d * d + j] - in[i]);
    return 1 / sum;
  });
}

OP_TEST(softmax, {.inputs = {normal({3, 5})},
                  .f = [](const Vars& v) { return ops::softmax(v[0]); },
                  .expect = [](const Tensors& t) { return naive_softmax(t[0]); },
                  .also = {{normal({4, 1})},
                           {normal({0, 3})},
                           {normal({2, 3, 7})},
                           {normal({31, 33}, 3)},
                           {normal({5, 1025}, 2)}}});

TEST(Softmax, StaysFiniteFarFromZeroAndKeepsMinusInfinityOut) {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor x = Tensor::from<float>(
      std::vector<float>{1e30f, 1e30f, -1e30f, -inf, 500, 501, 0, -inf}, {2, 4});
  const std::vector<double> y = ops::softmax(Var(x)).value().to_vector();
  EXPECT_EQ(y[0], 0.5);
  EXPECT_EQ(y[1], 0.5);
  EXPECT_EQ(y[2], 0);
  EXPECT_EQ(y[3], 0);
  EXPECT_NEAR(y[5], 1 / (1 + std::exp(-1.0)), 1e-6);
  EXPECT_EQ(y[7], 0);
}

TEST(Softmax, ARowWithNaNIsNaNAndItsNeighbourIsNot) {
  const Tensor x = Tensor::from<float>(std::vector<float>{1, NAN, 2, 1, 1, 1}, {2, 3});
  const std::vector<double> y = ops::softmax(Var(x)).value().to_vector();
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(y[i]));
  for (size_t i = 3; i < 6; ++i) EXPECT_NEAR(y[i], 1.0 / 3, 1e-7);
}

}  // namespace
}  // namespace pyramoe::optest
