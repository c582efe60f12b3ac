// Rows of the element-wise ops.
#include <cmath>

#include "core/kernels/elementwise.h"
#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

// f applied to elements of one or two inputs of a shape.
Tensor each(const Tensor& a, const std::function<double(double)>& f) {
  return make(a.shape(), [&](int64_t i) { return f(a.data<double>()[i]); });
}
Tensor each(const Tensor& a, const Tensor& b, const std::function<double(double, double)>& f) {
  return make(a.shape(), [&](int64_t i) { return f(a.data<double>()[i], b.data<double>()[i]); });
}

double naive_gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

OP_TEST(add, {.inputs = {normal({3, 5}), normal({3, 5})},
              .f = [](const Vars& v) { return ops::add(v[0], v[1]); },
              .expect =
                  [](const Tensors& t) {
                    return each(t[0], t[1], [](double a, double b) { return a + b; });
                  },
              .also = {{normal({1}), normal({1})},
                       {normal({0, 4}), normal({0, 4})},
                       {normal({31, 33}), normal({31, 33})},
                       {normal({17, 1025}), normal({17, 1025})}},
              .rounding = Rounding::elementwise});

OP_TEST(multiply, {.inputs = {normal({3, 5}), normal({3, 5})},
                   .f = [](const Vars& v) { return ops::multiply(v[0], v[1]); },
                   .expect =
                       [](const Tensors& t) {
                         return each(t[0], t[1], [](double a, double b) { return a * b; });
                       },
                   .also = {{normal({1}), normal({1})},
                            {normal({0, 4}), normal({0, 4})},
                            {normal({31, 33}), normal({31, 33})},
                            {normal({3, 5}), constant(normal({3, 5}))},
                            {constant(normal({3, 5})), normal({3, 5})},
                            {normal({17, 1025}), normal({17, 1025})}},
                   .rounding = Rounding::elementwise});

OP_TEST(scale,
        {.inputs = {normal({3, 5})},
         .f = [](const Vars& v) { return ops::scale(v[0], -1.7); },
         .expect = [](const Tensors& t) { return each(t[0], [](double a) { return -1.7 * a; }); },
         .also = {{normal({1})}, {normal({0})}, {normal({1025})}},
         .rounding = Rounding::elementwise});

OP_TEST(gelu, {.inputs = {normal({3, 5}, 2)},
               .f = [](const Vars& v) { return ops::gelu(v[0]); },
               .expect = [](const Tensors& t) { return each(t[0], naive_gelu); },
               .also = {{normal({1})},
                        {normal({0, 3})},
                        {normal({31, 33}, 3)},
                        {normal({17, 1025})},
                        {values({-40, -12, -5, -1e-3, 0, 1e-3, 5, 12, 40}, {9})}},
               .rounding = Rounding::elementwise,
               .loosen = 2,
               .why = "the exponent, 5 at |x| = 2, is rounded before e^x is taken"});

OP_TEST(reshape, {.inputs = {normal({3, 4})},
                  .f =
                      [](const Vars& v) {
                        return ops::reshape(v[0], {2, -1});
                      },
                  .expect =
                      [](const Tensors& t) {
                        return t[0].reshape({2, -1});
                      },
                  .also = {{normal({1, 2})}, {normal({31, 66})}},
                  .rounding = Rounding::exact});

OP_TEST(cast, {.inputs = {normal({3, 5})},
               .f = [](const Vars& v) { return ops::cast(v[0], DType::f64); },
               .expect = [](const Tensors& t) { return t[0]; },
               .also = {{normal({1})}, {normal({0, 2})}, {normal({3, 1025})}},
               .rounding = Rounding::elementwise});

TEST(Cast, RoundsToNearestEvenAndBack) {
  const Tensor x =
      Tensor::from<float>(std::vector<float>{1.0f, 1.00390625f, 1.01171875f, -3.1f}, {4});
  const Var narrow = ops::cast(Var(x, true), DType::bf16);
  // 1 + 2^-8 lies halfway between 1 and 1 + 2^-7: the even one is 1. 1 + 3 * 2^-8: up.
  EXPECT_EQ(narrow.value().to_vector(), (std::vector<double>{1, 1, 1.015625, -3.09375}));
  const Tensor whole = Tensor::from<float>(std::vector<float>{-2, 7, 1e6f}, {3}).to(DType::i32);
  EXPECT_EQ(whole.to_vector(), (std::vector<double>{-2, 7, 1e6}));
  EXPECT_EQ(whole.to(DType::bf16).to_vector()[1], 7);
  EXPECT_EQ(whole.to(DType::i64).to(DType::f64).to_vector()[2], 1e6);
}

TEST(Cast, GradientComesBackInTheInputsType) {
  const Var x(Tensor::full({5}, DType::bf16, 2), true);
  const Var y = ops::cast(x, DType::f32);
  EXPECT_EQ(y.dtype(), DType::f32);
  backward(y, Tensor::full({5}, DType::f32, 1.00390625));
  EXPECT_EQ(x.grad().dtype(), DType::bf16);
  EXPECT_EQ(x.grad().to_vector()[4], 1);
}

TEST(Accumulate, AddsNarrowIntoWide) {
  for (DType from : {DType::f64, DType::f32, DType::bf16}) {
    for (DType to : {DType::f64, DType::f32, DType::bf16}) {
      const Tensor x = Tensor::full({37}, from, 0.5);
      Tensor y = Tensor::full({37}, to, 2);
      kernels::accumulate(x, y);
      for (double v : y.to_vector()) ASSERT_EQ(v, 2.5) << to_string(from) << to_string(to);
    }
  }
}

TEST(Gelu, AnElementDoesNotDependOnItsPlace) {
  const Tensor whole = normal({1025}, 3).make(5).to(DType::f32);
  Tensor y = empty_like(whole), slope = empty_like(whole);
  kernels::gelu_forward(whole, y);
  kernels::gelu_backward(whole, whole, slope);
  for (int64_t n : {1, 7, 8, 9, 31, 64, 500}) {
    const Tensor part = whole.rows(3, 3 + n);
    Tensor z = empty_like(part), part_slope = empty_like(part);
    kernels::gelu_forward(part, z);
    kernels::gelu_backward(part, part, part_slope);
    EXPECT_EQ(z.to_vector(), y.rows(3, 3 + n).to_vector());
    EXPECT_EQ(part_slope.to_vector(), slope.rows(3, 3 + n).to_vector());
  }
}

TEST(Gelu, KeepsExtremesAndNaN) {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor x = Tensor::from<float>(std::vector<float>{-1e30f, 1e30f, inf, NAN, -200, 200}, {6});
  const std::vector<double> y = ops::gelu(Var(x)).value().to_vector();
  EXPECT_EQ(y[0], 0);
  EXPECT_EQ(y[1], static_cast<double>(1e30f));
  EXPECT_EQ(y[2], static_cast<double>(inf));
  EXPECT_TRUE(std::isnan(y[3]));
  EXPECT_EQ(y[4], 0);
  EXPECT_EQ(y[5], 200);
}

}  // namespace
}  // namespace pyramoe::optest
