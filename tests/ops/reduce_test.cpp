// Rows of the sums, and what the reduction kernels promise.
#include "core/kernels/reduce.h"

#include <cmath>

#include "core/parallel.h"
#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

double total(const Tensor& x) {
  double sum = 0;
  for (double v : x.to_vector()) sum += v;
  return sum;
}

OP_TEST(sum,
        {.inputs = {normal({3, 5})},
         .f = [](const Vars& v) { return ops::sum(v[0]); },
         .expect = [](const Tensors& t) { return make({1}, [&](int64_t) { return total(t[0]); }); },
         .also = {{normal({1})},
                  {normal({0, 2})},
                  {uniform({31, 33}, 0, 1)},
                  {uniform({40, 1025}, 0, 1)}}});

OP_TEST(mean, {.inputs = {normal({3, 5})},
               .f = [](const Vars& v) { return ops::mean(v[0]); },
               .expect =
                   [](const Tensors& t) {
                     return make({1}, [&](int64_t) {
                       return total(t[0]) / static_cast<double>(t[0].numel());
                     });
                   },
               .also = {{normal({1})}, {uniform({31, 33}, 0, 1)}, {uniform({40, 1025}, 0, 1)}}});

OP_TEST(weighted_sum,
        {.inputs = {normal({1}), normal({1}), normal({1, 1}), f64_values({0.25, -3, 1e-3})},
         .f =
             [](const Vars& v) {
               return ops::weighted_sum({v[0], v[1], v[2]}, v[3].value());
             },
         .expect =
             [](const Tensors& t) {
               const double* w = t[3].data<double>();
               return make({1}, [&](int64_t) {
                 return w[0] * t[0].item() + w[1] * t[1].item() + w[2] * t[2].item();
               });
             }});

TEST(SumRows, MatchesPlainLoopsAndAddsOnRequest) {
  for (int64_t rows : {0, 1, 63, 64, 65, 1000}) {
    for (int64_t columns : {1, 31, 257}) {
      const Tensor x = normal({rows, columns}).make(3);
      Tensor y({columns}, DType::f64);
      kernels::sum_rows(x, false, y);
      for (int64_t j = 0; j < columns; ++j) {
        double want = 0;
        for (int64_t i = 0; i < rows; ++i) want += x.data<double>()[i * columns + j];
        ASSERT_NEAR(y.data<double>()[j], want, 1e-12);
      }
      const Tensor once = y.clone();
      kernels::sum_rows(x, true, y);
      for (int64_t j = 0; j < columns; ++j) {
        ASSERT_EQ(y.data<double>()[j], 2 * once.data<double>()[j]);
      }
    }
  }
}

TEST(SumRows, OfBf16IntoF32KeepsFullPrecision) {
  const Tensor x = Tensor::full({1000, 3}, DType::bf16, 1.0078125);
  Tensor y({3}, DType::f32);
  kernels::sum_rows(x, false, y);
  EXPECT_EQ(y.to_vector(), (std::vector<double>(3, 1007.8125)));
}

TEST(SumSquares, IsExactInDoubleForAnyThreads) {
  const Tensor x = normal({100003}).make(9);
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Tensor typed = x.to(dtype);
    double want = 0;
    for (double v : typed.to_vector()) want += v * v;
    const int before = num_threads();
    std::vector<double> seen;
    for (int threads : {1, 2, 3}) {
      set_num_threads(threads);
      Tensor y({1}, DType::f64);
      kernels::sum_squares(typed, y);
      seen.push_back(y.item());
    }
    set_num_threads(before);
    EXPECT_NEAR(seen[0], want, 1e-12 * want);
    EXPECT_EQ(seen[0], seen[1]);
    EXPECT_EQ(seen[0], seen[2]);
  }
}

TEST(SumSquares, FindsOneNaN) {
  Tensor x = Tensor::zeros({70001}, DType::f32);
  x.data<float>()[70000] = NAN;
  Tensor y({1}, DType::f64);
  kernels::sum_squares(x, y);
  EXPECT_TRUE(std::isnan(y.item()));
}

}  // namespace
}  // namespace pyramoe::optest
