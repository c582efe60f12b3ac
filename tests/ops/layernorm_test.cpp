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

const std::function<Outputs(const Vars&)> add_layer_norm = [](const Vars& v) {
  return ops::add_layer_norm(v[0], v[1], v[2], v[3]);
};
Tensor naive_sum(const Tensor& a, const Tensor& b) {
  return make(a.shape(), [&](int64_t i) { return a.data<double>()[i] + b.data<double>()[i]; });
}
Inputs sum_inputs(Shape shape) {
  const Shape row{shape.back()};
  return {normal(shape), normal(shape), normal(row), normal(row)};
}

OP_TEST(add_layer_norm,
        {.inputs = sum_inputs({3, 5}),
         .f = add_layer_norm,
         .expect = [](const Tensors& t) -> Expected {
           const Tensor h = naive_sum(t[0], t[1]);
           return Tensors{h, naive_layer_norm(h, t[2], t[3])};
         },
         .also = {sum_inputs({0, 5}),
                  sum_inputs({2, 3, 7}),
                  sum_inputs({131, 33}),
                  sum_inputs({5, 1025}),
                  {normal({4, 6}), constant(normal({4, 6})), normal({6}), constant(normal({6}))},
                  {constant(normal({4, 6})), constant(normal({4, 6})), normal({6}), normal({6})}}});

TEST(LayerNorm, OfASumEqualsAddThenNorm) {
  for (DType dtype : {DType::f64, DType::f32}) {
    Vars leaves, again;
    for (size_t i = 0; i < 4; ++i) {
      const Tensor t = normal(i < 2 ? Shape{9, 40} : Shape{40}).make(i).to(dtype);
      leaves.emplace_back(t.clone(), true);
      again.emplace_back(t.clone(), true);
    }
    const Tensor dh = normal({9, 40}).make(8).to(dtype), dy = normal({9, 40}).make(9).to(dtype);
    const Vars y = ops::add_layer_norm(leaves[0], leaves[1], leaves[2], leaves[3]);
    backward(y, {dh, dy});
    const Var h = ops::add(again[0], again[1]);
    backward(Vars{h, ops::layer_norm(h, again[2], again[3])}, {dh, dy});
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(leaves[i].grad().to_vector(), again[i].grad().to_vector()) << i;
    }
  }
}

TEST(LayerNorm, OfASumWhoseNormNobodyReadsPassesTheGradientOn) {
  const Var x(normal({3, 4}).make(1), true), r(normal({3, 4}).make(2), true);
  const Var w(normal({4}).make(3), true), b(normal({4}).make(4), true);
  const Tensor seed = normal({3, 4}).make(5);
  backward(ops::add_layer_norm(x, r, w, b)[0], seed);
  EXPECT_EQ(x.grad().to_vector(), seed.to_vector());
  EXPECT_EQ(r.grad().to_vector(), seed.to_vector());
  EXPECT_FALSE(w.grad_written());
}

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
