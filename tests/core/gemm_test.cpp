// The matrix product against plain loops, and its promise about bits: an element is one chain of
// fused multiply-adds over k, whatever surrounds it.
#include "core/cpu/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "core/cpu/gemm_kernels.h"
#include "core/parallel.h"

namespace pyramoe::gemm {
namespace {

template <class T>
std::vector<T> random_values(int64_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<T> x(static_cast<size_t>(n));
  for (T& value : x) value = static_cast<T>(normal(rng));
  return x;
}

template <class T>
double wide(T x) {
  return static_cast<double>(x);
}

// One case with the memory its pointers need. Leading dimensions are wider than the matrices, and
// what lies between rows is not a number: reading it shows.
template <class T, class TC>
struct Case {
  Product<T, TC> p;
  std::vector<T> a, b, bias;
  std::vector<TC> c, gelu;

  Case(int64_t m, int64_t n, int64_t k, bool transpose_a, bool transpose_b, int extras,
       unsigned seed = 1) {
    const int64_t a_rows = transpose_a ? k : m, a_cols = transpose_a ? m : k;
    const int64_t b_rows = transpose_b ? n : k, b_cols = transpose_b ? k : n;
    p.m = m, p.n = n, p.k = k;
    p.lda = a_cols + 3, p.ldb = b_cols + 5, p.ldc = n + 2;
    p.transpose_a = transpose_a, p.transpose_b = transpose_b;
    a = padded(random_values<T>(a_rows * a_cols, seed), a_rows, a_cols, p.lda);
    b = padded(random_values<T>(b_rows * b_cols, seed + 1), b_rows, b_cols, p.ldb);
    bias = random_values<T>(n, seed + 2);
    c = random_values<TC>(m * p.ldc, seed + 3);
    gelu = c;
    p.accumulate = (extras & 1) != 0;
    p.a = a.data(), p.b = b.data(), p.c = c.data();
    if (extras & 2) p.bias = bias.data();
    if (extras & 4) p.gelu = gelu.data();
  }
  static std::vector<T> padded(const std::vector<T>& x, int64_t rows, int64_t cols, int64_t ld) {
    std::vector<T> y(static_cast<size_t>(rows * ld), T(std::numeric_limits<float>::quiet_NaN()));
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        y[static_cast<size_t>(i * ld + j)] = x[static_cast<size_t>(i * cols + j)];
      }
    }
    return y;
  }
  double a_at(int64_t i, int64_t q) const {
    return wide(p.a[p.transpose_a ? q * p.lda + i : i * p.lda + q]);
  }
  double b_at(int64_t q, int64_t j) const {
    return wide(p.b[p.transpose_b ? j * p.ldb + q : q * p.ldb + j]);
  }
};

double naive_gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

template <class T, class TC>
void check_against_loops(Case<T, TC> x, double tolerance) {
  const Case<T, TC> before = x;
  x.p.c = x.c.data();
  if (x.p.gelu) x.p.gelu = x.gelu.data();
  multiply(x.p);
  for (int64_t i = 0; i < x.p.m; ++i) {
    for (int64_t j = 0; j < x.p.ldc; ++j) {
      const auto at = static_cast<size_t>(i * x.p.ldc + j);
      if (j >= x.p.n) {
        ASSERT_EQ(wide(x.c[at]), wide(before.c[at])) << "wrote between rows";
        continue;
      }
      double sum = x.p.accumulate ? wide(before.c[at]) : 0;
      for (int64_t q = 0; q < x.p.k; ++q) sum += x.a_at(i, q) * x.b_at(q, j);
      if (x.p.bias) sum += wide(x.bias[static_cast<size_t>(j)]);
      const double scale = 1 + std::abs(sum) + std::sqrt(static_cast<double>(x.p.k));
      ASSERT_NEAR(wide(x.c[at]), sum, tolerance * scale) << i << " " << j;
      if (x.p.gelu) {
        ASSERT_NEAR(wide(x.gelu[at]), naive_gelu(sum), tolerance * scale) << i << " " << j;
      }
    }
  }
}

class Gemm : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!use_kernels(GetParam())) GTEST_SKIP() << "this machine has no " << GetParam();
  }
  ~Gemm() override {
    use_kernels("avx512") || use_kernels("base");
    set_num_threads(threads_);
  }

 private:
  int threads_ = num_threads();
};
INSTANTIATE_TEST_SUITE_P(Isa, Gemm, ::testing::Values("base", "avx512"));

TEST_P(Gemm, EqualsPlainLoopsAtOddSizes) {
  const int64_t sizes[][3] = {{1, 1, 1},     {1, 33, 31},  {2, 17, 64},    {3, 100, 7},
                              {4, 31, 33},   {5, 16, 16},  {13, 15, 17},   {31, 33, 65},
                              {64, 1, 1025}, {65, 129, 3}, {127, 64, 530}, {300, 40, 1030},
                              {33, 1100, 9}, {6, 5, 0},    {1, 5, 0}};
  for (const auto& [m, n, k] : sizes) {
    for (int flags = 0; flags < 4; ++flags) {
      for (int extras : {0, 1, 2, 7}) {
        SCOPED_TRACE(::testing::Message() << m << " " << n << " " << k << " transposes " << flags
                                          << " extras " << extras);
        const bool ta = flags & 1, tb = flags & 2;
        check_against_loops(Case<double, double>(m, n, k, ta, tb, extras), 1e-14);
        check_against_loops(Case<float, float>(m, n, k, ta, tb, extras), 5e-6);
        check_against_loops(Case<BFloat16, BFloat16>(m, n, k, ta, tb, extras), 8e-3);
        check_against_loops(Case<BFloat16, float>(m, n, k, ta, tb, extras), 5e-6);
        if (HasFatalFailure()) return;
      }
    }
  }
}

template <class T>
T chain(const Case<T, T>& x, int64_t i, int64_t j) {
  T sum = x.p.accumulate ? x.c[static_cast<size_t>(i * x.p.ldc + j)] : T(0);
  for (int64_t q = 0; q < x.p.k; ++q) {
    sum = std::fma(static_cast<T>(x.a_at(i, q)), static_cast<T>(x.b_at(q, j)), sum);
  }
  return sum;
}

template <class T>
void check_chain(bool ta, bool tb) {
  for (int64_t m : {1, 2, 3, 4, 5, 29, 260}) {
    for (int accumulate : {0, 1}) {
      Case<T, T> x(m, 77, 1301, ta, tb, accumulate);
      const Case<T, T> before = x;
      multiply(x.p);
      for (int64_t i = 0; i < m; i += 7) {
        for (int64_t j = 0; j < 77; ++j) {
          ASSERT_EQ(x.c[static_cast<size_t>(i * x.p.ldc + j)], chain(before, i, j))
              << m << " rows, element " << i << " " << j;
        }
      }
    }
  }
}

TEST_P(Gemm, ElementIsOneChainOfFusedMultiplyAdds) {
  for (bool ta : {false, true}) {
    for (bool tb : {false, true}) {
      check_chain<float>(ta, tb);
      check_chain<double>(ta, tb);
    }
  }
}

template <class T, class TC>
void check_rows(bool tb) {
  const int64_t n = 70, k = 450;
  Case<T, TC> all(200, n, k, false, tb, 6);
  multiply(all.p);
  Case<T, TC> part(200, n, k, false, tb, 6);
  for (int64_t m = 1; m <= 200; ++m) {
    part.p.m = m;
    const int64_t first = (m * 37) % (201 - m);
    part.p.a = part.a.data() + first * part.p.lda;
    multiply(part.p);
    for (int64_t i = 0; i < m; ++i) {
      const auto row = static_cast<size_t>(i * all.p.ldc);
      const auto full = static_cast<size_t>((first + i) * all.p.ldc);
      const size_t bytes = static_cast<size_t>(n) * sizeof(TC);
      ASSERT_EQ(std::memcmp(&part.c[row], &all.c[full], bytes), 0) << m << " rows, row " << i;
      ASSERT_EQ(std::memcmp(&part.gelu[row], &all.gelu[full], bytes), 0) << m << ", row " << i;
    }
  }
}

TEST_P(Gemm, RowDoesNotDependOnOtherRows) {
  for (bool tb : {false, true}) {
    check_rows<float, float>(tb);
    check_rows<double, double>(tb);
    check_rows<BFloat16, BFloat16>(tb);
  }
}

template <class T, class TC>
std::vector<TC> run(int64_t m, int flags) {
  Case<T, TC> x(m, 140, 500, flags & 1, flags & 2, 7);
  multiply(x.p);
  x.c.insert(x.c.end(), x.gelu.begin(), x.gelu.end());
  return x.c;
}

template <class T, class TC>
void check_same_bits(const char* isa) {
  for (int64_t m : {1, 3, 40, 513}) {
    for (int flags = 0; flags < 4; ++flags) {
      use_kernels("base");
      set_num_threads(1);
      const std::vector<TC> expect = run<T, TC>(m, flags);
      use_kernels(isa);
      for (int threads : {1, 2, 3, 8}) {
        set_num_threads(threads);
        const std::vector<TC> got = run<T, TC>(m, flags);
        ASSERT_EQ(std::memcmp(got.data(), expect.data(), got.size() * sizeof(TC)), 0)
            << m << " rows, transposes " << flags << ", " << threads << " threads";
      }
    }
  }
}

TEST_P(Gemm, SameBitsForAnyThreadCountAndInstructionSet) {
  check_same_bits<float, float>(GetParam());
  check_same_bits<double, double>(GetParam());
  check_same_bits<BFloat16, BFloat16>(GetParam());
  check_same_bits<BFloat16, float>(GetParam());
}

TEST_P(Gemm, ManyProductsTogetherEqualEachAlone) {
  std::vector<Case<float, float>> alone, together;
  for (int64_t m : {0, 1, 40, 3, 0, 130, 16}) {
    alone.emplace_back(m, 70, 90, false, m % 2 == 0, 0, static_cast<unsigned>(m) + 1);
    multiply(alone.back().p);
  }
  for (int64_t m : {0, 1, 40, 3, 0, 130, 16}) {
    together.emplace_back(m, 70, 90, false, m % 2 == 0, 0, static_cast<unsigned>(m) + 1);
  }
  std::vector<Product<float, float>> products;
  for (auto& x : together) products.push_back(x.p);
  multiply_all<float, float>(products);
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_EQ(alone[i].c, together[i].c) << i;
}

}  // namespace
}  // namespace pyramoe::gemm
