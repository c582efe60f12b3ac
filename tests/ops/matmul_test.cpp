// Rows of the dense products.
#include <cmath>

#include "core/kernels/matmul.h"
#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

double naive_gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

// x (N, K) times w (M, K) transposed, plus bias (M) where there is one.
Tensor naive_linear(const Tensor& x, const Tensor& w, const Tensor& bias) {
  const int64_t k = x.dim(1), m = w.numel() / k;
  return make({x.dim(0), m}, [&](int64_t i) {
    double sum = bias.defined() ? bias.data<double>()[i % m] : 0;
    for (int64_t j = 0; j < k; ++j) {
      sum += x.data<double>()[i / m * k + j] * w.data<double>()[i % m * k + j];
    }
    return sum;
  });
}

OP_TEST(matmul, {.inputs = {normal({3, 5}), normal({5, 4})},
                 .f = [](const Vars& v) { return ops::matmul(v[0], v[1]); },
                 .expect =
                     [](const Tensors& t) {
                       const int64_t k = t[1].dim(0), n = t[1].dim(1);
                       return make({t[0].dim(0), n}, [&](int64_t i) {
                         double sum = 0;
                         for (int64_t j = 0; j < k; ++j) {
                           sum += t[0].data<double>()[i / n * k + j] *
                                  t[1].data<double>()[j * n + i % n];
                         }
                         return sum;
                       });
                     },
                 .also = {{normal({1, 1}), normal({1, 1})},
                          {normal({0, 3}), normal({3, 2})},
                          {normal({31, 33}), normal({33, 65})},
                          {normal({65, 7}), constant(normal({7, 130}))},
                          {constant(normal({9, 257})), normal({257, 33})},
                          {normal({2, 1025}), normal({1025, 3})}},
                 .rounding = Rounding::products});

const std::function<Outputs(const Vars&)> linear = [](const Vars& v) {
  return ops::linear(v[0], v[1], v.size() > 2 ? v[2] : Var());
};
const std::function<Expected(const Tensors&)> expect_linear = [](const Tensors& t) {
  return naive_linear(t[0], t[1], t.size() > 2 ? t[2] : Tensor());
};

OP_TEST(linear, {.inputs = {normal({3, 5}), normal({4, 5}), normal({4})},
                 .f = linear,
                 .expect = expect_linear,
                 .also = {{normal({1, 1}), normal({1, 1}), normal({1})},
                          {normal({3, 5}), normal({4, 5})},
                          {normal({0, 5}), normal({4, 5}), normal({4})},
                          {normal({4, 6}), normal({3, 2, 6}), normal({3, 2})},
                          {normal({31, 33}), normal({65, 33}), normal({65})},
                          {constant(normal({31, 33})), normal({65, 33}), constant(normal({65}))},
                          {normal({2, 1025}), normal({3, 1025}), normal({3})},
                          {normal({130, 31}), normal({17, 31}), normal({17})}},
                 .rounding = Rounding::products});

OP_TEST(linear_gelu,
        {.inputs = {normal({3, 5}), normal({4, 5}), normal({4})},
         .f = [](const Vars& v) { return ops::linear_gelu(v[0], v[1], v[2]); },
         .expect =
             [](const Tensors& t) {
               const Tensor pre = naive_linear(t[0], t[1], t[2]);
               return make(pre.shape(),
                           [&](int64_t i) { return naive_gelu(pre.data<double>()[i]); });
             },
         .also = {{normal({1, 1}), normal({1, 1}), normal({1})},
                  {normal({0, 5}), normal({4, 5}), normal({4})},
                  {normal({31, 33}, 0.3), normal({65, 33}, 0.3), normal({65})},
                  {normal({2, 1025}, 0.1), normal({3, 1025}, 0.3), normal({3})}},
         .rounding = Rounding::products,
         .loosen = 2,
         .why = "the rounding of the product passes through gelu's slope and is met again in the "
                "backward product"});

OP_TEST(mlp,
        {.inputs = {normal({3, 5}), normal({4, 5}), normal({4}), normal({6, 4}), normal({6})},
         .f = [](const Vars& v) { return ops::mlp(v[0], v[1], v[2], v[3], v[4]); },
         .expect =
             [](const Tensors& t) {
               const Tensor pre = naive_linear(t[0], t[1], t[2]);
               const Tensor hidden =
                   make(pre.shape(), [&](int64_t i) { return naive_gelu(pre.data<double>()[i]); });
               return naive_linear(hidden, t[3], t[4]);
             },
         .also = {{normal({1, 1}), normal({1, 1}), normal({1}), normal({1, 1}), normal({1})},
                  {normal({0, 5}), normal({4, 5}), normal({4}), normal({2, 4}), normal({2})},
                  {normal({31, 33}, 0.3), normal({65, 33}, 0.3), normal({65}),
                   normal({17, 65}, 0.3), normal({17})},
                  {normal({64, 64}, 0.3), normal({128, 64}, 0.3), constant(normal({128})),
                   normal({64, 128}, 0.3), normal({64})}},
         .rounding = Rounding::products,
         .loosen = 4,
         .why = "the hidden layer is rounded between two products, its gradient before two more"});

// The hidden layer's gradient for down needs gelu's output, which nobody keeps.
TEST(Linear, BackwardMakesTheForwardBitsOfGeluAgain) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    const double slack = type == DType::f64 ? 1e-13 : type == DType::f32 ? 1e-5 : 0x1p-7;
    for (const int64_t n : {1, 31, 64, 200}) {
      const auto some = [&](Shape shape) { return normal(shape).make(7).to(type); };
      const Tensor x = some({n, 40}), w = some({n, 40}), dy = some({n, 7}), down = some({7, n});
      Tensor pre({n, n}, type), y = empty_like(pre), again = empty_like(pre), dpre = pre;
      kernels::linear_gelu_forward(x, w, Tensor(), pre, y);
      kernels::linear_dx_gelu(dy, down, pre, dpre, again);
      EXPECT_EQ(y.to_vector(), again.to_vector()) << to_string(type) << " " << n;
      // Without it, into fresh memory and into pre.
      Tensor none, alone = empty_like(pre), before = y;
      kernels::linear_forward(x, w, Tensor(), before);
      kernels::linear_dx_gelu(dy, down, before, alone, none);
      kernels::linear_dx_gelu(dy, down, before, before, none);
      EXPECT_EQ(alone.to_vector(), before.to_vector()) << to_string(type) << " " << n;
      const std::vector<double> with = dpre.to_vector(), without = alone.to_vector();
      for (size_t i = 0; i < with.size(); ++i) {
        ASSERT_NEAR(with[i], without[i], slack * (1 + std::abs(with[i])));
      }
    }
  }
}

TEST(Linear, NamesTheSizesThatDoNotMeet) {
  const Var x(Tensor::zeros({2, 3}, DType::f32)), w(Tensor::zeros({4, 5}, DType::f32));
  try {
    ops::linear(x, w, Var());
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "linear: x has K = 3, weight expects 5");
  }
}

TEST(Linear, Bf16GradientsGatherInF32) {
  const Var x(Tensor::full({64, 8}, DType::bf16, 1)), w(Tensor::full({4, 8}, DType::bf16, 1), true);
  const Tensor place({4, 8}, DType::f32);
  w.place_grad(place);
  for (int pass = 0; pass < 3; ++pass) {
    backward(ops::linear(x, w, Var()), Tensor::full({64, 4}, DType::bf16, 1.0078125));
  }
  // 192.5 + 1: neither 64.5 nor the sum is a bf16 number.
  for (double g : place.to_vector()) EXPECT_EQ(g, 3 * 64 * 1.0078125);
}

}  // namespace
}  // namespace pyramoe::optest
