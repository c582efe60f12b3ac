// Products against Eigen, a second implementation that shares nothing with ours, at the sizes that
// models use.
#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <limits>
#include <tuple>

#include "core/kernels/matmul.h"
#include "core/rng.h"

namespace pyramoe {
namespace {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
Tensor random_tensor(Shape shape, uint64_t seed) {
  Tensor x(std::move(shape), DTypeOf<T>::value);
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<T>()[i] =
        static_cast<T>(random_normal({seed, RngPurpose::test, 0, 0}, static_cast<uint64_t>(i)));
  }
  return x;
}

template <class T>
Eigen::Map<Matrix<T>> map(const Tensor& x) {
  return {x.data<T>(), x.dim(0), x.dim(1)};
}

// Largest error of a product in units of (rounding unit) * sum |a||b|, the bound of any order of
// summation divided by K.
template <class T>
double error_in_units(int64_t m, int64_t n, int64_t k, bool ta, bool tb) {
  const Tensor a = random_tensor<T>(ta ? Shape{k, m} : Shape{m, k}, 1);
  const Tensor b = random_tensor<T>(tb ? Shape{n, k} : Shape{k, n}, 2);
  Tensor c({m, n}, DTypeOf<T>::value);
  kernels::matmul(a, ta, b, tb, false, c);
  Matrix<double> x = map<T>(a).template cast<double>(), y = map<T>(b).template cast<double>();
  if (ta) x.transposeInPlace();
  if (tb) y.transposeInPlace();
  const Matrix<double> want = x * y, bound = x.cwiseAbs() * y.cwiseAbs();
  const double unit = std::numeric_limits<T>::epsilon() / 2;
  return ((map<T>(c).template cast<double>() - want).cwiseAbs().array() / (bound.array() * unit))
      .maxCoeff();
}

TEST(GemmEigen, AgreesAtTheSizesOfModels) {
  for (const auto& [m, n, k] : {std::tuple{4096, 384, 384},
                                {512, 1536, 384},
                                {1, 4096, 384},
                                {32, 3072, 768},
                                {97, 131, 1031}}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        // Rounding errors of a chain grow like sqrt(K) in units, and never beyond K.
        const double most = 4 * std::sqrt(static_cast<double>(k));
        EXPECT_LT(error_in_units<float>(m, n, k, ta, tb), most) << m << " " << n << " " << k;
      }
    }
  }
  // In f64 both round, so each may be off by the bound.
  EXPECT_LT(error_in_units<double>(97, 131, 1031, false, true), 8 * std::sqrt(1031.0));
}

}  // namespace
}  // namespace pyramoe
