// What tests of CUDA kernels share: tensors on both devices, and how close twins must be.
//
// With PYRAMOE_SMALL=1 large cases are left out: under a sanitizer (tests/gpu/sanitize.sh) each
// access costs a hundred times more.
//
// The CPU twin is the definition of right. A bound says how far element i may be off; where sums
// are rounded it follows from the inputs (c * eps * sum of |terms|), never from one norm.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"

#define SKIP_WITHOUT_GPU()                                                   \
  do {                                                                       \
    if (!::pyramoe::cuda_available()) GTEST_SKIP() << "no CUDA device here"; \
  } while (0)

namespace pyramoe::gputest {

inline bool left_out(int64_t elements) {
  static const bool small = std::getenv("PYRAMOE_SMALL") != nullptr;
  return small && elements > int64_t{1} << 17;
}
// A list of sizes or shapes without those that are left out.
inline std::vector<int64_t> fitting(std::vector<int64_t> sizes) {
  std::erase_if(sizes, left_out);
  return sizes;
}
inline std::vector<Shape> fitting(std::vector<Shape> shapes) {
  std::erase_if(shapes, [](const Shape& shape) { return left_out(numel(shape)); });
  return shapes;
}

// Cases say how many elements they have.
template <class Case, size_t N>
requires requires(const Case& c) { c.elements(); }
std::vector<Case> fitting(const Case (&cases)[N]) {
  std::vector<Case> some(cases, cases + N);
  std::erase_if(some, [](const Case& c) { return left_out(c.elements()); });
  return some;
}

inline constexpr Device kGpu{DeviceType::cuda, 0};

inline Tensor on_gpu(const Tensor& x) { return x.to(kGpu); }

// Half the distance between neighbours near 1: what one rounding may change, relatively.
inline double unit_roundoff(DType type) {
  return type == DType::bf16 ? 0x1p-8 : type == DType::f32 ? 0x1p-24 : 0x1p-53;
}

// N(0, scale^2) in f64, rounded to `type`, on the CPU.
inline Tensor normal(Shape shape, DType type = DType::f32, double scale = 1, uint64_t seed = 1) {
  Tensor x(std::move(shape), DType::f64);
  const RngKey key{.seed = seed, .purpose = RngPurpose::test};
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<double>()[i] = scale * random_normal(key, static_cast<uint64_t>(i));
  }
  return x.to(type);
}

// |x| in f64.
inline Tensor magnitude(const Tensor& x) {
  Tensor y = x.to(DType::f64).clone();
  for (double& v : y.span<double>()) v = std::abs(v);
  return y;
}

// i32 in [from, below).
inline Tensor ids(Shape shape, int64_t below, int64_t from = 0, uint64_t seed = 1) {
  Tensor x(std::move(shape), DType::i32);
  const RngKey key{.seed = seed, .purpose = RngPurpose::test};
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double u = random_uniform(key, static_cast<uint64_t>(i));
    x.data<int32_t>()[i] =
        static_cast<int32_t>(from + static_cast<int64_t>(u * static_cast<double>(below - from)));
  }
  return x;
}

// Fills a tensor with bytes 0xff: NaN in every floating type, -1 in integers. Outputs are poisoned
// before a kernel runs, so that an element it forgets shows.
inline Tensor poison(Tensor x) {
  device_set_bytes(x.raw(), 0xff, x.bytes(), x.device());
  return x;
}
// A poisoned tensor of x's shape and dtype on the GPU.
inline Tensor poisoned_like(const Tensor& x) { return poison(Tensor(x.shape(), x.dtype(), kGpu)); }

using Bound = std::function<double(int64_t)>;

// |got - want| <= bound(i) at every i; equal where want is infinite; NaN where want is NaN.
inline void expect_close(const Tensor& want, const Tensor& got, const Bound& bound,
                         const std::string& what = "") {
  ASSERT_EQ(to_string(want.shape()), to_string(got.shape())) << what;
  const std::vector<double> a = want.to_vector(), b = got.to_vector();
  int64_t bad = 0, first = -1;
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double allowed = bound(static_cast<int64_t>(i)), off = std::abs(a[i] - b[i]);
    if (off <= allowed || a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    if (bad++ == 0) first = static_cast<int64_t>(i);
    worst = std::max(worst, off / std::max(allowed, 1e-300));
  }
  if (bad == 0) return;
  const auto i = static_cast<size_t>(first);
  ADD_FAILURE() << what << ": " << bad << " of " << a.size() << " elements are off, the first at "
                << first << " of " << to_string(want.shape()) << ": CPU " << a[i] << ", GPU "
                << b[i] << ", allowed " << bound(first) << "; worst is " << worst << " bounds";
}
// |got - want| <= rel |want| + abs.
inline void expect_close(const Tensor& want, const Tensor& got, double rel, double abs,
                         const std::string& what = "") {
  const std::vector<double> a = want.to_vector();
  expect_close(
      want, got, [&](int64_t i) { return rel * std::abs(a[static_cast<size_t>(i)]) + abs; }, what);
}
// The bound of each element as a tensor of want's shape.
inline void expect_close(const Tensor& want, const Tensor& got, const Tensor& bound,
                         const std::string& what = "") {
  const std::vector<double> allowed = bound.to_vector();
  expect_close(
      want, got, [&](int64_t i) { return allowed[static_cast<size_t>(i)]; }, what);
}

inline void expect_same_bits(const Tensor& a, const Tensor& b, const std::string& what = "") {
  ASSERT_EQ(to_string(a.shape()), to_string(b.shape())) << what;
  ASSERT_EQ(a.dtype(), b.dtype()) << what;
  const Tensor x = a.to(kCpu), y = b.to(kCpu);
  const auto* p = static_cast<const unsigned char*>(x.raw());
  const auto* q = static_cast<const unsigned char*>(y.raw());
  for (int64_t i = 0; i < x.bytes(); ++i) {
    if (p[i] == q[i]) continue;
    const int64_t element = i / size_of(x.dtype());
    ADD_FAILURE() << what << ": bits differ first at element " << element << ": "
                  << x.to_vector()[static_cast<size_t>(element)] << " and "
                  << y.to_vector()[static_cast<size_t>(element)];
    return;
  }
}

}  // namespace pyramoe::gputest
