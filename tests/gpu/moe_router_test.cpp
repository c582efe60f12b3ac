// The fused router on CUDA against its CPU twin: logits as good as f32 whatever the planes, choices
// equal but for logits that rounding cannot tell apart, gradients within what two planes keep.
#include <algorithm>

#include "core/kernels/moe.h"
#include "tests/gpu/support.h"

namespace pyramoe::gputest {
namespace {

struct Case {
  int64_t rows, d, experts, k;
  DType type;
};
const Case kCases[] = {{1, 8, 1, 1, DType::bf16},       {37, 64, 5, 2, DType::bf16},
                       {77, 64, 5, 2, DType::bf16},     {130, 1024, 32, 1, DType::bf16},
                       {257, 1000, 33, 3, DType::bf16}, {300, 256, 128, 8, DType::bf16},
                       {65, 512, 200, 9, DType::bf16},  {70, 128, 512, 2, DType::bf16},
                       {40, 33, 7, 2, DType::bf16},     {90, 33, 7, 2, DType::bf16},
                       {33, 64, 513, 2, DType::bf16},   {64, 96, 16, 2, DType::f32},
                       {65, 96, 16, 2, DType::f32},     {0, 64, 8, 2, DType::bf16}};

std::string name_of(const Case& c) {
  return cat("N ", c.rows, " D ", c.d, " E ", c.experts, " k ", c.k, " ", to_string(c.type));
}

// logits (N, E) in f64, and the sums of their |terms|.
struct Logits {
  std::vector<double> value, terms;
};
Logits logits_of(const Case& c, const Tensor& x, const Tensor& w) {
  const std::vector<double> a = x.to_vector(), b = w.to_vector();
  const auto d = static_cast<size_t>(c.d), experts = static_cast<size_t>(c.experts);
  Logits l;
  for (size_t n = 0; n < static_cast<size_t>(c.rows); ++n) {
    for (size_t e = 0; e < experts; ++e) {
      double sum = 0, terms = 0;
      for (size_t i = 0; i < d; ++i) {
        sum += a[n * d + i] * b[e * d + i];
        terms += std::abs(a[n * d + i] * b[e * d + i]);
      }
      l.value.push_back(sum);
      l.terms.push_back(terms);
    }
  }
  return l;
}

struct Routed {
  Tensor p, lse, expert, weight;
};
Routed route(const Case& c, const Tensor& x, const Tensor& w) {
  const Device device = x.device();
  Routed r{poison(Tensor({c.rows, c.experts}, DType::f32, device)),
           poison(Tensor({c.rows}, DType::f32, device)),
           poison(Tensor({c.rows, c.k}, DType::i32, device)),
           poison(Tensor({c.rows, c.k}, DType::f32, device))};
  kernels::router_forward(x, w, r.p, r.lse, r.expert, r.weight);
  return r;
}

// Roundings of a logit: at most one in f32 for each 16 terms and plane, and some.
double logit_error(const Logits& l, int64_t i) {
  return 256 * 0x1p-24 * l.terms[static_cast<size_t>(i)];
}

TEST(MoeRouterGpu, ChoosesAndWeighsAsTheCpuDoes) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : kCases) {
    const std::string what = name_of(c);
    const double scale = 1 / std::sqrt(static_cast<double>(c.d));
    const Tensor x = normal({c.rows, c.d}, c.type),
                 w = normal({c.experts, c.d}, DType::f32, scale, 2);
    const Routed cpu = route(c, x, w), gpu = route(c, on_gpu(x), on_gpu(w)),
                 again = route(c, on_gpu(x), on_gpu(w));
    expect_same_bits(gpu.p, again.p, what);
    expect_same_bits(gpu.expert, again.expert, what);
    expect_same_bits(gpu.weight, again.weight, what);
    const Logits l = logits_of(c, x, w);
    double worst = 0;
    for (size_t i = 0; i < l.terms.size(); ++i)
      worst = std::max(worst, logit_error(l, static_cast<int64_t>(i)));
    expect_close(cpu.lse, gpu.lse, 4 * 0x1p-24, 2 * worst + 64 * 0x1p-24, "lse " + what);
    expect_close(cpu.p, gpu.p, 4 * worst + 64 * 0x1p-24, 1e-37, "p " + what);
    // The j-th choice: the same expert, or one whose logit is as large within the error.
    const std::vector<double> a = cpu.expert.to_vector(), b = gpu.expert.to_vector(),
                              p = gpu.p.to_vector(), weight = gpu.weight.to_vector();
    int64_t other = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const size_t n = i / static_cast<size_t>(c.k), row = n * static_cast<size_t>(c.experts);
      ASSERT_TRUE(b[i] >= 0 && b[i] < static_cast<double>(c.experts)) << what;
      const size_t mine = row + static_cast<size_t>(b[i]), its = row + static_cast<size_t>(a[i]);
      other += a[i] != b[i];
      EXPECT_LE(std::abs(l.value[mine] - l.value[its]), 4 * worst) << what;
      EXPECT_EQ(weight[i], p[mine]) << what;
      for (size_t j = n * static_cast<size_t>(c.k); j < i; ++j) EXPECT_NE(b[i], b[j]) << what;
    }
    EXPECT_LE(other, 1 + c.rows * c.k / 100) << what;
  }
}

TEST(MoeRouterGpu, TiesGoToTheLowerIdAndNanStaysInRange) {
  SKIP_WITHOUT_GPU();
  for (const int64_t experts : {8, 100, 512}) {
    for (const int64_t rows : {20, 100}) {
      const Case c{rows, 64, experts, 4, DType::bf16};
      Tensor x = normal({c.rows, c.d}, DType::f64), w({experts, c.d}, DType::f32);
      x.data<double>()[5 * c.d + 3] = std::numeric_limits<double>::quiet_NaN();
      for (int64_t i = 0; i < w.numel(); ++i)
        w.data<float>()[i] = static_cast<float>(i % c.d % 5) - 2;
      const Routed gpu = route(c, on_gpu(x.to(DType::bf16)), on_gpu(w));
      const std::vector<double> expert = gpu.expert.to_vector(), weight = gpu.weight.to_vector();
      for (size_t i = 0; i < expert.size(); ++i) {
        EXPECT_EQ(expert[i], static_cast<double>(i % 4));  // all logits of a row are equal, or NaN
        EXPECT_EQ(std::isnan(weight[i]), i / 4 == 5);
      }
    }
  }
}

// A bound of |dlogits| and its terms, (N, E).
std::vector<double> dlogits_size(const Case& c, const Routed& r, const Tensor& dweight,
                                 const Tensor& share, double balance, double z, int64_t group) {
  const std::vector<double> p = r.p.to_vector(), dw = dweight.to_vector(), s = share.to_vector(),
                            expert = r.expert.to_vector(), lse = r.lse.to_vector();
  std::vector<double> size(p.size());
  const auto rows = static_cast<double>(c.rows);
  for (int64_t n = 0; n < c.rows; ++n) {
    double mean = std::abs(2 * z / rows * lse[static_cast<size_t>(n)]);
    std::vector<double> dp;
    for (int64_t e = 0; e < c.experts; ++e) {
      double d = std::abs(balance) * static_cast<double>(c.experts) / rows *
                 s[static_cast<size_t>(n / group * c.experts + e)];
      for (int64_t j = n * c.k; j < (n + 1) * c.k; ++j) {
        if (expert[static_cast<size_t>(j)] == static_cast<double>(e)) {
          d += std::abs(dw[static_cast<size_t>(j)]);
        }
      }
      dp.push_back(d);
      mean += d * p[static_cast<size_t>(n * c.experts + e)];
    }
    for (int64_t e = 0; e < c.experts; ++e) {
      const auto i = static_cast<size_t>(n * c.experts + e);
      size[i] = p[i] * (dp[static_cast<size_t>(e)] + mean);
    }
  }
  return size;
}

TEST(MoeRouterGpu, GradientsMeetTheCpus) {
  SKIP_WITHOUT_GPU();
  for (const Case& c : kCases) {
    if (c.rows == 0) continue;
    for (const bool add : {false, true}) {
      const std::string what = name_of(c) + (add ? ", added" : "");
      const Tensor x = normal({c.rows, c.d}, c.type),
                   w = normal({c.experts, c.d}, DType::f32, 0.1, 2);
      const Routed r = route(c, x, w);
      const Tensor dweight = normal({c.rows, c.k}, DType::f32, 1, 3);
      const Tensor dbalance = Tensor::full({1}, DType::f32, 3),
                   dz = Tensor::full({1}, DType::f32, 0.5);
      Tensor balance({1}, DType::f32), share({1, c.experts}, DType::f32), z({1}, DType::f32);
      kernels::router_losses(r.p, r.lse, r.expert, c.rows, true, balance, share, z);
      const Tensor came = normal({c.rows, c.d}, c.type, 0.01, 7);
      const Tensor before = normal({c.experts, c.d}, DType::f32, 0.1, 8);
      const auto run = [&](Device device) {
        Tensor dx = add ? came.to(device).clone() : poison(Tensor(x.shape(), c.type, device));
        Tensor dw = add ? before.to(device).clone() : poison(Tensor(w.shape(), DType::f32, device));
        kernels::router_backward(dweight.to(device), dbalance.to(device), dz.to(device),
                                 r.p.to(device), r.lse.to(device), r.expert.to(device),
                                 share.to(device), c.rows, x.to(device), w.to(device), add, add, dx,
                                 dw);
        return Tensors{dx, dw};
      };
      const Tensors cpu = run(kCpu), gpu = run(kGpu), again = run(kGpu);
      expect_same_bits(gpu[0], again[0], "dx " + what);
      expect_same_bits(gpu[1], again[1], "dw " + what);
      const std::vector<double> size = dlogits_size(c, r, dweight, share, 3, 0.5, c.rows);
      const std::vector<double> vw = w.to_vector(), vx = x.to_vector(), want = cpu[0].to_vector(),
                                first = came.to_vector();
      // Two planes of each factor: 16 bits.
      expect_close(
          cpu[0], gpu[0],
          [&](int64_t i) {
            double terms = 0;
            for (int64_t e = 0; e < c.experts; ++e) {
              terms += size[static_cast<size_t>(i / c.d * c.experts + e)] *
                       std::abs(vw[static_cast<size_t>(e * c.d + i % c.d)]);
            }
            // Added, the product may be rounded to dx's dtype before the sum is.
            const auto at = static_cast<size_t>(i);
            const double product = add ? std::abs(want[at] - first[at]) : 0;
            return 2 * unit_roundoff(c.type) * (std::abs(want[at]) + product) + 0x1p-15 * terms +
                   1e-9;
          },
          "dx " + what);
      expect_close(
          cpu[1], gpu[1],
          [&](int64_t i) {
            double terms = 0;
            for (int64_t n = 0; n < c.rows; ++n) {
              terms += size[static_cast<size_t>(n * c.experts + i / c.d)] *
                       std::abs(vx[static_cast<size_t>(n * c.d + i % c.d)]);
            }
            return 0x1p-15 * terms + 1e-7;
          },
          "dw " + what);
    }
  }
}

}  // namespace
}  // namespace pyramoe::gputest
