// Fused attention against plain loops over the T x T matrix, and its promise about bits: a token's
// result is the same alone, in a batch, from a cache, on any number of threads.
#include "core/kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/cpu/gemm_kernels.h"
#include "core/parallel.h"

namespace pyramoe {
namespace {

using kernels::AttentionDropout;

struct Sizes {
  int64_t batch, tokens, heads, dim;
};

Tensor normal(Shape shape, DType dtype, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<double> gauss;
  std::vector<double> x(static_cast<size_t>(numel(shape)));
  for (double& value : x) value = gauss(rng);
  return Tensor::from(x, std::move(shape), kCpu).to(dtype);
}

struct Result {
  Tensor y, lse, dqkv;
};

Result fused(const Tensor& qkv, const Tensor& dy, const AttentionDropout& dropout = {}) {
  const int64_t b = qkv.dim(0), t = qkv.dim(1), h = qkv.dim(3), dim = qkv.dim(4);
  Result r;
  r.y = Tensor({b, t, h * dim}, qkv.dtype());
  r.lse = Tensor({b, h, t}, qkv.dtype() == DType::f64 ? DType::f64 : DType::f32);
  r.dqkv = Tensor(qkv.shape(), qkv.dtype());
  kernels::attention_forward(qkv, dropout, r.y, r.lse);
  kernels::attention_backward(dy, qkv, r.y, r.lse, dropout, r.dqkv);
  return r;
}

// One head of one sequence by the formulas, in double.
struct Naive {
  const double* x;
  const double* g;
  int64_t tokens, heads, dim, b, h;
  AttentionDropout dropout;

  size_t at(int64_t t, int64_t part, int64_t d) const {
    return static_cast<size_t>((((b * tokens + t) * 3 + part) * heads + h) * dim + d);
  }
  double dy(int64_t t, int64_t d) const { return g[((b * tokens + t) * heads + h) * dim + d]; }
  double keep(int64_t q, int64_t k) const {
    if (dropout.p == 0) return 1;
    const int64_t row = ((dropout.first_sequence + b) * heads + h) * tokens * tokens + q * tokens;
    const auto u = static_cast<double>(random_uniform(dropout.key, static_cast<uint64_t>(row + k)));
    return u >= dropout.p ? 1 / (1 - dropout.p) : 0;
  }
  // Adds dqkv of this head; returns y (T, Dh) and lse (T).
  std::pair<std::vector<double>, std::vector<double>> run(std::vector<double>& dqkv) const {
    const double scale = 1 / std::sqrt(static_cast<double>(dim));
    std::vector<double> y(static_cast<size_t>(tokens * dim)), lse(static_cast<size_t>(tokens));
    for (int64_t q = 0; q < tokens; ++q) {
      std::vector<double> p(static_cast<size_t>(q + 1)), dp(p.size());
      double sum = 0, d_row = 0;
      for (int64_t k = 0; k <= q; ++k) {
        double s = 0;
        for (int64_t d = 0; d < dim; ++d) s += x[at(q, 0, d)] * x[at(k, 1, d)];
        sum += p[static_cast<size_t>(k)] = std::exp(s * scale);
      }
      lse[static_cast<size_t>(q)] = std::log(sum);
      for (int64_t k = 0; k <= q; ++k) {
        const auto i = static_cast<size_t>(k);
        p[i] /= sum;
        for (int64_t d = 0; d < dim; ++d) {
          y[static_cast<size_t>(q * dim + d)] += p[i] * keep(q, k) * x[at(k, 2, d)];
          dp[i] += keep(q, k) * dy(q, d) * x[at(k, 2, d)];
          dqkv[at(k, 2, d)] += p[i] * keep(q, k) * dy(q, d);
        }
        d_row += p[i] * dp[i];
      }
      for (int64_t k = 0; k <= q; ++k) {
        const double ds = p[static_cast<size_t>(k)] * (dp[static_cast<size_t>(k)] - d_row) * scale;
        for (int64_t d = 0; d < dim; ++d) {
          dqkv[at(q, 0, d)] += ds * x[at(k, 1, d)];
          dqkv[at(k, 1, d)] += ds * x[at(q, 0, d)];
        }
      }
    }
    return {y, lse};
  }
};

void check_against_loops(const Sizes& s, DType dtype, double tolerance,
                         const AttentionDropout& dropout = {}) {
  SCOPED_TRACE(::testing::Message() << s.batch << " x " << s.tokens << " x " << s.heads << " x "
                                    << s.dim << " " << to_string(dtype));
  const Tensor qkv = normal({s.batch, s.tokens, 3, s.heads, s.dim}, dtype, 1);
  const Tensor dy = normal({s.batch, s.tokens, s.heads * s.dim}, dtype, 2);
  const Result got = fused(qkv, dy, dropout);
  const std::vector<double> x = qkv.to_vector(), g = dy.to_vector(), y = got.y.to_vector(),
                            lse = got.lse.to_vector(), dqkv = got.dqkv.to_vector();
  std::vector<double> expect(x.size());
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const auto [y_head, lse_head] =
          Naive{x.data(), g.data(), s.tokens, s.heads, s.dim, b, h, dropout}.run(expect);
      for (int64_t t = 0; t < s.tokens; ++t) {
        ASSERT_NEAR(lse[static_cast<size_t>((b * s.heads + h) * s.tokens + t)],
                    lse_head[static_cast<size_t>(t)], tolerance * 10);
        for (int64_t d = 0; d < s.dim; ++d) {
          const auto at = static_cast<size_t>(((b * s.tokens + t) * s.heads + h) * s.dim + d);
          ASSERT_NEAR(y[at], y_head[static_cast<size_t>(t * s.dim + d)], tolerance * 10);
        }
      }
    }
  }
  for (size_t i = 0; i < expect.size(); ++i) {
    ASSERT_NEAR(dqkv[i], expect[i], tolerance * 20 * (1 + std::abs(expect[i]))) << i;
  }
}

class Attention : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!gemm::use_kernels(GetParam())) GTEST_SKIP() << "this machine has no " << GetParam();
  }
  ~Attention() override {
    gemm::use_kernels("avx512") || gemm::use_kernels("base");
    set_num_threads(threads_);
  }

 private:
  int threads_ = num_threads();
};
INSTANTIATE_TEST_SUITE_P(Isa, Attention, ::testing::Values("base", "avx512"));

const Sizes kSizes[] = {{1, 1, 1, 1},    {2, 3, 2, 5},     {1, 31, 2, 64},
                        {2, 33, 1, 32},  {1, 64, 1, 16},   {1, 65, 3, 7},
                        {1, 130, 2, 64}, {1, 200, 1, 128}, {1, 257, 1, 40}};

TEST_P(Attention, EqualsPlainLoopsAtOddSizes) {
  for (const Sizes& s : kSizes) {
    check_against_loops(s, DType::f64, 1e-14);
    check_against_loops(s, DType::f32, 1e-6);
    check_against_loops(s, DType::bf16, 1e-2);
    if (HasFatalFailure()) return;
  }
  check_against_loops({1, 1025, 1, 8}, DType::f64, 1e-14);
}

TEST_P(Attention, DropsProbabilitiesByCounter) {
  const AttentionDropout dropout{0.3, {7, RngPurpose::attention_dropout, 5, 2}, 11};
  for (const Sizes& s : {Sizes{2, 3, 2, 4}, Sizes{1, 33, 2, 5}, Sizes{2, 130, 1, 16}}) {
    check_against_loops(s, DType::f64, 1e-14, dropout);
    check_against_loops(s, DType::f32, 1e-6, dropout);
  }
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

TEST_P(Attention, SameBitsForAnyThreadCountAndInstructionSet) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const Sizes& s : {Sizes{1, 300, 2, 64}, Sizes{3, 70, 4, 20}, Sizes{1, 2, 1, 64}}) {
      const Tensor qkv = normal({s.batch, s.tokens, 3, s.heads, s.dim}, dtype, 3);
      const Tensor dy = normal({s.batch, s.tokens, s.heads * s.dim}, dtype, 4);
      gemm::use_kernels("base");
      set_num_threads(1);
      const Result expect = fused(qkv, dy);
      gemm::use_kernels(GetParam());
      for (int threads : {1, 2, 3, 5}) {
        set_num_threads(threads);
        const Result got = fused(qkv, dy);
        EXPECT_TRUE(same_bits(got.y, expect.y)) << to_string(dtype) << " " << threads;
        EXPECT_TRUE(same_bits(got.lse, expect.lse)) << to_string(dtype) << " " << threads;
        EXPECT_TRUE(same_bits(got.dqkv, expect.dqkv)) << to_string(dtype) << " " << threads;
      }
    }
  }
}

// Feeds a sequence through a cache in pieces; the cache starts full of what is not a number.
void check_cached(DType dtype, const std::vector<int64_t>& pieces, int64_t heads, int64_t dim) {
  const int64_t batch = 2;
  int64_t tokens = 0;
  for (int64_t n : pieces) tokens += n;
  const Tensor qkv = normal({batch, tokens, 3, heads, dim}, dtype, 5);
  const Tensor dy = normal({batch, tokens, heads * dim}, dtype, 6);
  const Tensor whole = fused(qkv, dy).y;
  Tensor cache = Tensor::full({batch, tokens + 3, 2, heads, dim}, dtype,
                              std::numeric_limits<double>::quiet_NaN());
  const int64_t row = 3 * heads * dim * size_of(dtype), out_row = row / 3;
  int64_t done = 0;
  for (int64_t n : pieces) {
    Tensor part({batch, n, 3, heads, dim}, dtype), y({batch, n, heads * dim}, dtype);
    for (int64_t b = 0; b < batch; ++b) {
      std::memcpy(static_cast<char*>(part.raw()) + b * n * row,
                  static_cast<const char*>(qkv.raw()) + (b * tokens + done) * row,
                  static_cast<size_t>(n * row));
    }
    const auto length = static_cast<int32_t>(done);
    kernels::attention_cached(part, Tensor::from(std::vector<int32_t>{length, length}, {batch}),
                              cache, y);
    for (int64_t b = 0; b < batch; ++b) {
      ASSERT_EQ(std::memcmp(static_cast<const char*>(y.raw()) + b * n * out_row,
                            static_cast<const char*>(whole.raw()) + (b * tokens + done) * out_row,
                            static_cast<size_t>(n * out_row)),
                0)
          << to_string(dtype) << ": " << n << " tokens after " << done;
    }
    done += n;
  }
}

TEST_P(Attention, CachedTokensHaveTheBitsOfTheWholeSequence) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    check_cached(dtype, std::vector<int64_t>(70, 1), 2, 16);
    check_cached(dtype, {1, 2, 3, 4, 5, 6, 64, 65, 1, 40, 1, 1, 3}, 2, 64);
    check_cached(dtype, {130, 1, 1, 1, 70, 2}, 1, 33);
    check_cached(dtype, {1, 1, 1}, 1, 1);
  }
}

TEST_P(Attention, CacheServesSequencesOfDifferentLengths) {
  const int64_t tokens = 90, heads = 2, dim = 24;
  const Tensor qkv = normal({1, tokens, 3, heads, dim}, DType::f32, 8);
  const Tensor whole = fused(qkv, normal({1, tokens, heads * dim}, DType::f32, 9)).y;
  Tensor cache = Tensor::zeros({2, tokens, 2, heads, dim}, DType::f32);
  const int32_t lengths[2] = {40, 77};
  for (int64_t b = 0; b < 2; ++b) {  // the cache as it is after lengths[b] tokens
    for (int64_t t = 0; t < lengths[b]; ++t) {
      std::memcpy(cache.data<float>() + (b * tokens + t) * 2 * heads * dim,
                  qkv.data<float>() + (t * 3 + 1) * heads * dim,
                  static_cast<size_t>(2 * heads * dim) * sizeof(float));
    }
  }
  Tensor next({2, 1, 3, heads, dim}, DType::f32), y({2, 1, heads * dim}, DType::f32);
  const size_t row = static_cast<size_t>(heads * dim) * sizeof(float);
  for (int64_t b = 0; b < 2; ++b) {
    std::memcpy(next.data<float>() + b * 3 * heads * dim,
                qkv.data<float>() + lengths[b] * 3 * heads * dim, 3 * row);
  }
  kernels::attention_cached(next, Tensor::from(std::vector<int32_t>{40, 77}, {2}), cache, y);
  for (int64_t b = 0; b < 2; ++b) {
    EXPECT_EQ(std::memcmp(y.data<float>() + b * heads * dim,
                          whole.data<float>() + lengths[b] * heads * dim, row),
              0);
  }
  EXPECT_THROW(
      kernels::attention_cached(next, Tensor::from(std::vector<int32_t>{40, 90}, {2}), cache, y),
      Error);
}

}  // namespace
}  // namespace pyramoe
