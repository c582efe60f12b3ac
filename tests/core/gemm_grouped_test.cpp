// The grouped products of core/kernels/matmul.h on ragged segments: against plain loops, with
// experts that have no rows, and with rows behind the last segment that must be neither read nor
// written.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/kernels/matmul.h"

namespace pyramoe {
namespace {

constexpr int64_t kExperts = 6, kOut = 37, kIn = 21, kTail = 4;
const std::vector<int32_t> kOffsets = {0, 0, 5, 6, 6, 60, 60};  // experts 0, 3 and 5 are empty

Tensor normal(Shape shape, DType dtype, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<double> gauss;
  std::vector<double> x(static_cast<size_t>(numel(shape)));
  for (double& value : x) value = gauss(rng);
  return Tensor::from(x, std::move(shape)).to(dtype);
}

// (R + tail, cols): random rows, then rows that are not numbers.
Tensor rows_with_tail(int64_t cols, DType dtype, unsigned seed) {
  const int64_t rows = kOffsets.back();
  Tensor x = Tensor::full({rows + kTail, cols}, dtype, std::numeric_limits<double>::quiet_NaN());
  const Tensor values = normal({rows, cols}, dtype, seed);
  std::memcpy(x.raw(), values.raw(), static_cast<size_t>(values.bytes()));
  return x;
}

struct Grouped {
  DType dtype;
  double tolerance;
  Tensor offsets = Tensor::from(kOffsets, {kExperts + 1});
  Tensor x, dy, w, bias;
  explicit Grouped(DType type) : dtype(type) {
    tolerance = type == DType::f64 ? 1e-13 : type == DType::f32 ? 2e-5 : 0.1;
    x = rows_with_tail(kIn, type, 1), dy = rows_with_tail(kOut, type, 2);
    w = normal({kExperts, kOut, kIn}, type, 3), bias = normal({kExperts, kOut}, type, 4);
  }
  Tensor output(int64_t cols) const {
    return Tensor::full({kOffsets.back() + kTail, cols}, dtype, 7);
  }
  static int64_t expert_of(int64_t row) {
    int64_t e = 0;
    while (kOffsets[static_cast<size_t>(e) + 1] <= row) ++e;
    return e;
  }
};

// Compares the rows of a product with f(row, column), and the tail with what it was filled with.
template <class F>
void expect_rows(const Tensor& got, int64_t cols, double tolerance, const F& f) {
  const std::vector<double> y = got.to_vector();
  for (int64_t r = 0; r < kOffsets.back() + kTail; ++r) {
    for (int64_t j = 0; j < cols; ++j) {
      const double value = y[static_cast<size_t>(r * cols + j)];
      if (r >= kOffsets.back()) {
        ASSERT_EQ(value, 7) << "wrote behind the last segment";
      } else {
        ASSERT_NEAR(value, f(r, j), tolerance) << r << " " << j;
      }
    }
  }
}

class GroupedGemm : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(DType, GroupedGemm, ::testing::Values(DType::f64, DType::f32, DType::bf16),
                         [](const auto& row) { return std::string(to_string(row.param)); });

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

TEST_P(GroupedGemm, ForwardIsEachExpertsOwnLinear) {
  const Grouped g(GetParam());
  const auto x = g.x.to_vector(), w = g.w.to_vector(), bias = g.bias.to_vector();
  const auto expect = [&](int64_t r, int64_t j, bool with_bias) {
    const int64_t e = Grouped::expert_of(r);
    double sum = with_bias ? bias[static_cast<size_t>(e * kOut + j)] : 0;
    for (int64_t k = 0; k < kIn; ++k) {
      sum += x[static_cast<size_t>(r * kIn + k)] * w[static_cast<size_t>((e * kOut + j) * kIn + k)];
    }
    return sum;
  };
  Tensor y = g.output(kOut), pre = g.output(kOut), active = g.output(kOut);
  kernels::grouped_linear_forward(g.x, g.offsets, g.w, Tensor(), y);
  kernels::grouped_linear_gelu_forward(g.x, g.offsets, g.w, g.bias, pre, active);
  expect_rows(y, kOut, g.tolerance, [&](int64_t r, int64_t j) { return expect(r, j, false); });
  expect_rows(pre, kOut, g.tolerance, [&](int64_t r, int64_t j) { return expect(r, j, true); });
  expect_rows(active, kOut, g.tolerance,
              [&](int64_t r, int64_t j) { return gelu(expect(r, j, true)); });
}

TEST_P(GroupedGemm, DxIsDyTimesTheExpertsWeight) {
  const Grouped g(GetParam());
  const auto dy = g.dy.to_vector(), w = g.w.to_vector();
  Tensor dx = g.output(kIn);
  kernels::grouped_linear_dx(g.dy, g.offsets, g.w, dx);
  expect_rows(dx, kIn, g.tolerance, [&](int64_t r, int64_t j) {
    double sum = 0;
    for (int64_t k = 0; k < kOut; ++k) {
      sum += dy[static_cast<size_t>(r * kOut + k)] *
             w[static_cast<size_t>((Grouped::expert_of(r) * kOut + k) * kIn + j)];
    }
    return sum;
  });
}

TEST_P(GroupedGemm, DwSumsOverTheExpertsRowsAndIsZeroWithoutAny) {
  const Grouped g(GetParam());
  const auto x = g.x.to_vector(), dy = g.dy.to_vector();
  for (const DType out : {g.dtype, g.dtype == DType::bf16 ? DType::f32 : g.dtype}) {
    for (const bool accumulate : {false, true}) {
      const double start = accumulate ? 0.5 : 0;
      Tensor dw = Tensor::full({kExperts, kOut, kIn}, out, 0.5);
      Tensor db = Tensor::full({kExperts, kOut}, out, 0.5);
      kernels::grouped_linear_dw(g.dy, g.x, g.offsets, accumulate, dw, db);
      const auto got = dw.to_vector(), got_b = db.to_vector();
      for (int64_t e = 0; e < kExperts; ++e) {
        const int64_t begin = kOffsets[static_cast<size_t>(e)];
        const int64_t end = kOffsets[static_cast<size_t>(e) + 1];
        for (int64_t j = 0; j < kOut; ++j) {
          double sum_b = start;
          for (int64_t r = begin; r < end; ++r) sum_b += dy[static_cast<size_t>(r * kOut + j)];
          const double tolerance = begin == end ? 0 : g.tolerance * 3;
          ASSERT_NEAR(got_b[static_cast<size_t>(e * kOut + j)], sum_b, tolerance);
          for (int64_t k = 0; k < kIn; ++k) {
            double sum = start;
            for (int64_t r = begin; r < end; ++r) {
              sum += dy[static_cast<size_t>(r * kOut + j)] * x[static_cast<size_t>(r * kIn + k)];
            }
            ASSERT_NEAR(got[static_cast<size_t>((e * kOut + j) * kIn + k)], sum, tolerance);
          }
        }
      }
    }
  }
}

TEST_P(GroupedGemm, GeluBackwardStopsAtTheLastSegment) {
  const Grouped g(GetParam());
  Tensor dx = g.output(kOut);
  const Tensor pre = rows_with_tail(kOut, g.dtype, 5);
  kernels::grouped_gelu_backward(g.dy, pre, g.offsets, dx);
  const auto dy = g.dy.to_vector(), x = pre.to_vector();
  expect_rows(dx, kOut, std::max(g.tolerance, 1e-8), [&](int64_t r, int64_t j) {
    const auto at = static_cast<size_t>(r * kOut + j);
    const double h = 1e-5;
    return dy[at] * (gelu(x[at] + h) - gelu(x[at] - h)) / (2 * h);
  });
}

TEST_P(GroupedGemm, RefusesOffsetsThatDoNotFit) {
  const Grouped g(GetParam());
  Tensor y = g.output(kOut);
  const Tensor beyond = Tensor::from(std::vector<int32_t>{0, 0, 5, 6, 6, 60, 65}, {kExperts + 1});
  const Tensor falling = Tensor::from(std::vector<int32_t>{0, 9, 5, 6, 6, 60, 60}, {kExperts + 1});
  EXPECT_THROW(kernels::grouped_linear_forward(g.x, beyond, g.w, Tensor(), y), Error);
  EXPECT_THROW(kernels::grouped_linear_forward(g.x, falling, g.w, Tensor(), y), Error);
}

}  // namespace
}  // namespace pyramoe
