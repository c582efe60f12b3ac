// The vector functions of core/cpu/simd.h against the C library in wider arithmetic, at every scale
// and at the ends of the range; and the fixed order of sums.
#include "core/cpu/simd.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

namespace pyramoe::simd {
namespace {

template <class T>
T first(Vec<T> x) {
  T lane[Vec<T>::lanes];
  x.store(lane);
  return lane[0];
}

// The largest error of f against `truth` over many x of both signs, in units of the last place;
// results below the smallest normal number are left out.
template <class T, class F, class G>
double worst_ulp(T low, T high, F f, G truth) {
  double worst = 0;
  for (T size = low; size < high; size *= T(1.0007)) {
    for (const T x : {size, -size}) {
      const long double expect = truth(static_cast<long double>(x));
      if (std::abs(expect) < static_cast<long double>(std::numeric_limits<T>::min())) continue;
      const T near = static_cast<T>(expect);
      const T ulp =
          std::nextafter(std::abs(near), std::numeric_limits<T>::infinity()) - std::abs(near);
      const long double error = static_cast<long double>(first(f(Vec<T>(x)))) - expect;
      worst = std::max(worst, static_cast<double>(std::abs(error) / static_cast<long double>(ulp)));
    }
  }
  return worst;
}

template <class T>
void check_functions(T exp_limit, double exp_ulp, double gelu_ulp) {
  const auto gelu_truth = [](long double x) {
    const long double u = std::sqrt(2 / std::acos(-1.0L)) * (x + 0.044715L * x * x * x);
    return x / (1 + std::exp(-2 * u));
  };
  EXPECT_LE(worst_ulp<T>(
                T(1e-8), exp_limit, [](Vec<T> x) { return exp(x); },
                [](long double x) { return std::exp(x); }),
            exp_ulp);
  EXPECT_LE(worst_ulp<T>(
                T(1e-8), T(3), [](Vec<T> x) { return gelu(x); }, gelu_truth),
            gelu_ulp);
  for (T x = T(-6); x < T(6); x += T(0.01)) {
    const long double h = 1e-5L, wide = static_cast<long double>(x);
    const long double slope = (gelu_truth(wide + h) - gelu_truth(wide - h)) / (2 * h);
    EXPECT_NEAR(static_cast<double>(first(gelu_slope(Vec<T>(x)))), static_cast<double>(slope),
                (std::is_same_v<T, float> ? 1e-6 : 1e-9));
  }
}

TEST(Simd, FunctionsAreGoodToTheLastPlaces) {
  check_functions<float>(87.0f, 1.5, 16.0);  // gelu: exp(-8) of a rounded 8
  check_functions<double>(700.0, 2.0, 16.0);
}

template <class T>
void check_ends() {
  const T infinity = std::numeric_limits<T>::infinity();
  EXPECT_EQ(first(exp(Vec<T>(T(0)))), T(1));
  EXPECT_EQ(first(exp(Vec<T>(-infinity))), T(0));
  EXPECT_EQ(first(exp(Vec<T>(infinity))), infinity);
  EXPECT_TRUE(std::isnan(first(exp(Vec<T>(std::numeric_limits<T>::quiet_NaN())))));
  EXPECT_EQ(first(gelu(Vec<T>(T(1e5)))), T(1e5));
  EXPECT_EQ(first(gelu(Vec<T>(T(-1e5)))), T(0));
}

TEST(Simd, FunctionsKeepTheirLimits) {
  check_ends<float>();
  check_ends<double>();
}

TEST(Simd, SumsFoldHalvesOntoHalves) {
  float x[16];
  for (int i = 0; i < 16; ++i) x[i] = 1.0f / static_cast<float>(i * i + 1);
  float expect[16];
  std::copy_n(x, 16, expect);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) expect[i] += expect[i + half];
  }
  EXPECT_EQ(sum(Vec<float>::load(x)), expect[0]);
}

TEST(Simd, PartialLoadsAndStoresTouchNothingElse) {
  for (int64_t n = 0; n <= 16; ++n) {
    float from[16], to[17];
    BFloat16 narrow[17];
    for (int i = 0; i < 16; ++i) from[i] = static_cast<float>(i) + 1;
    std::fill_n(to, 17, -1.0f);
    std::fill_n(narrow, 17, BFloat16(-1.0f));
    const Vec<float> x = Vec<float>::load(from, n);
    x.store(to, n);
    x.store(narrow, n);
    float all[16];
    x.store(all);
    for (int i = 0; i < 17; ++i) {
      const float expect = i < n ? static_cast<float>(i) + 1 : -1.0f;
      EXPECT_EQ(to[i], expect);
      EXPECT_EQ(static_cast<float>(narrow[i]), expect);
      if (i < 16) {
        EXPECT_EQ(all[i], i < n ? expect : 0.0f);
      }
    }
  }
}

TEST(Simd, Bf16RoundsAsBFloat16Does) {
  for (uint32_t bits = 0; bits < 0xffff0000u - 40503u; bits += 40503u) {
    const float x = std::bit_cast<float>(bits);
    BFloat16 got[16];
    Vec<float>(x).store(got);
    EXPECT_EQ(got[0].bits, BFloat16(x).bits) << x;
  }
}

}  // namespace
}  // namespace pyramoe::simd
