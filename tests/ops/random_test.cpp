// Rows of dropout.
#include <cmath>

#include "core/kernels/random.h"
#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

const RngKey key = {.seed = 77, .purpose = RngPurpose::dropout, .step = 3, .layer = 2};

Tensor naive_dropout(const Tensor& x, double p, int64_t first_row) {
  const int64_t d = x.dim(-1);
  return make(x.shape(), [&](int64_t i) {
    const double u = static_cast<double>(
        random_uniform(key, static_cast<uint64_t>((first_row + i / d) * d + i % d)));
    return u >= p ? x.data<double>()[i] / (1 - p) : 0;
  });
}

OP_TEST(dropout,
        {.inputs = {normal({3, 5})},
         .f = [](const Vars& v) { return ops::dropout(v[0], 0.3, key, 11); },
         .expect = [](const Tensors& t) { return naive_dropout(t[0], 0.3, 11); },
         .also = {{normal({1, 1})}, {normal({0, 3})}, {normal({31, 33})}, {normal({17, 1025})}},
         .rounding = Rounding::elementwise});

TEST(Dropout, WithoutProbabilityIsTheSameVar) {
  const Var x(Tensor::zeros({2, 2}, DType::f32), true);
  EXPECT_EQ(ops::dropout(x, 0, key, 0).state(), x.state());
}

TEST(Dropout, ARowDoesNotDependOnItsBatch) {
  const Tensor x = Tensor::full({64, 33}, DType::f32, 1);
  Tensor whole = empty_like(x);
  kernels::dropout(x, 0.5, key, 100, whole);
  for (int64_t row : {1, 2, 3, 50}) {
    const Tensor one = x.rows(row, row + 1);
    Tensor y = empty_like(one);
    kernels::dropout(one, 0.5, key, 100 + row, y);
    EXPECT_EQ(y.to_vector(), whole.rows(row, row + 1).to_vector());
  }
}

TEST(Dropout, DropsTheShareItWasAskedFor) {
  const Tensor x = Tensor::full({1000, 100}, DType::f32, 1);
  Tensor y = empty_like(x);
  kernels::dropout(x, 0.1, key, 0, y);
  int64_t dropped = 0;
  for (double v : y.to_vector()) dropped += v == 0;
  EXPECT_NEAR(static_cast<double>(dropped), 10000, 4 * std::sqrt(9000));
}

}  // namespace
}  // namespace pyramoe::optest
