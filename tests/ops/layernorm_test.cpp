// Rows of layer norm.
#include <cmath>

#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

Tensor naive_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const int64_t d = x.dim(-1);
  return make(x.shape(), [&](int64_t i) {
    const double* row = x.data<double>() + i / d * d;
    double mean = 0, variance = 0;
    for (int64_t j = 0; j < d; ++j) mean += row[j] / static_cast<double>(d);
    for (int64_t j = 0; j < d; ++j) {
      variance += (row[j] - mean) * (row[j] - mean) / static_cast<double>(d);
    }
    return (row[i % d] - mean) / std::sqrt(variance + 1e-5) * weight.data<double>()[i % d] +
           bias.data<double>()[i % d];
  });
}

const std::function<Outputs(const Vars&)> layer_norm = [](const Vars& v) {
  return ops::layer_norm(v[0], v[1], v[2]);
};
const std::function<Expected(const Tensors&)> expect_layer_norm = [](const Tensors& t) {
  return naive_layer_norm(t[0], t[1], t[2]);
};

OP_TEST(layer_norm, {.inputs = {normal({3, 5}), normal({5}), normal({5})},
                     .f = layer_norm,
                     .expect = expect_layer_norm,
                     .also = {{normal({0, 5}), normal({5}), normal({5})},
                              {constant(normal({4, 6})), normal({6}), normal({6})},
                              {normal({4, 6}), constant(normal({6})), constant(normal({6}))},
                              {normal({4, 6}), constant(normal({6})), normal({6})},
                              {normal({4, 6}), normal({6}), constant(normal({6}))},
                              {normal({2, 3, 7}), normal({7}), normal({7})},
                              {normal({131, 33}), normal({33}), normal({33})},
                              {normal({5, 1025}), normal({1025}), normal({1025})}}});

OP_TEST(layer_norm_of_one_column,
        {.inputs = {normal({3, 1}), normal({1}), normal({1})},
         .f = layer_norm,
         .expect = expect_layer_norm,
         .why = "its gradient is 316 times a difference of equal numbers: pure rounding",
         .narrow = false});

TEST(LayerNorm, ARowWithoutVarianceGivesTheBias) {
  const Var x(Tensor::full({2, 33}, DType::f32, 7)), w(Tensor::full({33}, DType::f32, 3)),
      b(Tensor::full({33}, DType::f32, -1));
  for (double y : ops::layer_norm(x, w, b).value().to_vector()) EXPECT_NEAR(y, -1, 1e-4);
}

TEST(LayerNorm, OneLeafAsWeightAndBiasGetsBothGradients) {
  // The same leaf as weight and bias: the second place is taken, so the engine adds.
  const Var x(normal({3, 4}).make(1)), w(normal({4}).make(2), true);
  const Var only_w(w.value(), true), only_b(w.value(), true);
  const Tensor seed = normal({3, 4}).make(3);
  backward(ops::layer_norm(x, w, w), seed);
  backward(ops::layer_norm(x, only_w, only_b), seed);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(w.grad().to_vector()[i],
                only_w.grad().to_vector()[i] + only_b.grad().to_vector()[i], 1e-14);
  }
}

}  // namespace
}  // namespace pyramoe::optest
