// Dense products: every transpose, odd sizes, accumulation, and the bias and GELU epilogues.
//
// Bounds: K terms summed in any order are off by at most K u sum|terms| (u of fp32; tensor cores
// drop a few bits more), then the result is rounded once to its dtype. What is added to a bf16
// product (a bias, what was there before) may meet it already rounded: one rounding of the product
// more.
#include "core/kernels/matmul.h"

#include "core/kernels/elementwise.h"
#include "tests/gpu/support.h"

namespace pyramoe::gputest {
namespace {

Tensor absolute(const Tensor& x) {
  Tensor y = x.to(DType::f64).clone();
  for (int64_t i = 0; i < y.numel(); ++i) y.data<double>()[i] = std::abs(y.data<double>()[i]);
  return y;
}

// f64 product on the CPU, and the bound of each of its elements.
struct Truth {
  Tensor value, bound;
};
Truth truth(const Tensor& a, bool ta, const Tensor& b, bool tb, const Tensor& before, DType out) {
  const int64_t m = ta ? a.dim(1) : a.dim(0), k = ta ? a.dim(0) : a.dim(1);
  const int64_t n = tb ? b.dim(0) : b.dim(1);
  Truth t{Tensor::zeros({m, n}, DType::f64), Tensor::zeros({m, n}, DType::f64)};
  Tensor start = Tensor::zeros({m, n}, DType::f64);
  if (before.defined()) {
    t.value = before.to(DType::f64).clone();
    t.bound = absolute(before);
    start.copy_from(t.value);
  }
  kernels::matmul(a.to(DType::f64), ta, b.to(DType::f64), tb, before.defined(), t.value);
  kernels::matmul(absolute(a), ta, absolute(b), tb, before.defined(), t.bound);
  for (int64_t i = 0; i < t.bound.numel(); ++i) {
    double& bound = t.bound.data<double>()[i];
    const double value = t.value.data<double>()[i], added = start.data<double>()[i];
    bound = static_cast<double>(k + 8) * 0x1p-23 * bound +
            1.01 * unit_roundoff(out) *
                (std::abs(value) + (added != 0 ? std::abs(value - added) : 0.0));
  }
  return t;
}

// Linear layers of one to four rows whose K is a multiple of 8 (bf16) or 4 take a kernel of their
// own.
struct Size {
  int64_t m, n, k;
};
const std::vector<Size> kSizes = {
    {1, 1, 1},     {3, 5, 7},    {64, 64, 64}, {33, 65, 127},   {129, 1, 40},         {1, 256, 512},
    {17, 48, 0},   {0, 4, 4},    {5, 0, 3},    {200, 136, 264}, {256, 50304 / 8, 64}, {2, 40, 264},
    {3, 72, 4104}, {4, 133, 512}};

TEST(Matmul, MatchesTheCpuInEveryTranspose) {
  SKIP_WITHOUT_GPU();
  for (const auto& [m, n, k] : kSizes) {
    if (left_out(m * n + n * k)) continue;
    for (const DType type : {DType::f32, DType::bf16}) {
      for (const int flags : {0, 1, 2, 3}) {
        const bool ta = flags & 1, tb = flags & 2;
        const Tensor a = normal(ta ? Shape{k, m} : Shape{m, k}, type, 1, 1);
        const Tensor b = normal(tb ? Shape{n, k} : Shape{k, n}, type, 1, 2);
        for (const DType out : {type, DType::f32}) {
          for (const bool add : {false, true}) {
            const Tensor before = add ? normal({m, n}, out, 1, 3) : Tensor();
            const Truth want = truth(a, ta, b, tb, before, out);
            Tensor c = add ? on_gpu(before).clone() : poison(Tensor({m, n}, out, kGpu));
            Tensor again = c.clone();
            kernels::matmul(on_gpu(a), ta, on_gpu(b), tb, add, c);
            kernels::matmul(on_gpu(a), ta, on_gpu(b), tb, add, again);
            const std::string what = cat(m, "x", n, "x", k, " ", to_string(type), " to ",
                                         to_string(out), " transposes ", flags, " add ", add);
            expect_close(want.value, c, want.bound, what);
            expect_same_bits(c, again, what);
          }
        }
      }
    }
  }
}

// Views into one buffer at odd places: what a kernel may assume of addresses follows from them.
TEST(Matmul, WorksAtUnalignedAddresses) {
  SKIP_WITHOUT_GPU();
  for (const DType type : {DType::f32, DType::bf16}) {
    const Tensor a = normal({32, 64}, type, 1, 1), b = normal({48, 64}, type, 1, 2);
    const Truth want = truth(a, false, b, true, Tensor(), type);
    for (const int64_t shift : {1, 2, 4}) {
      const auto shifted = [&](const Tensor& x) {
        Tensor room({x.numel() + shift}, type, kGpu);
        room.rows(shift, x.numel() + shift).copy_from(on_gpu(x).reshape({-1}));
        return room.rows(shift, x.numel() + shift).reshape(x.shape());
      };
      Tensor c = shifted(poison(Tensor({32, 48}, type)));
      kernels::matmul(shifted(a), false, shifted(b), true, false, c);
      expect_close(want.value, c, want.bound, cat(to_string(type), " shifted by ", shift));
    }
  }
}

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

TEST(Linear, BiasAndGeluMatchTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const auto& [m, n, k] : kSizes) {
    if (left_out(m * n + n * k)) continue;
    for (const DType type : {DType::f32, DType::bf16}) {
      for (const bool with_bias : {false, true}) {
        const Tensor x = normal({m, k}, type, 1, 1), w = normal({n, k}, type, 1, 2);
        const Tensor bias = with_bias ? normal({n}, type, 1, 3) : Tensor();
        Tensor before({m, n}, DType::f64);
        for (int64_t i = 0; i < m * n; ++i) {
          before.data<double>()[i] = with_bias ? bias.to_vector()[static_cast<size_t>(i % n)] : 0.0;
        }
        const Truth want = truth(x, false, w, true, before, type);
        const std::string what = cat(m, "x", n, "x", k, " ", to_string(type), " bias ", with_bias);
        const Tensor there = with_bias ? on_gpu(bias) : bias;
        Tensor y = poison(Tensor({m, n}, type, kGpu)), pre = poison(empty_like(y));
        kernels::linear_forward(on_gpu(x), on_gpu(w), there, y);
        expect_close(want.value, y, want.bound, what);
        poison(y);
        kernels::linear_gelu_forward(on_gpu(x), on_gpu(w), there, pre, y);
        expect_close(want.value, pre, want.bound, what + ", before gelu");
        const std::vector<double> v = want.value.to_vector(), bound = want.bound.to_vector();
        Tensor gelu_want({m, n}, DType::f64);
        for (size_t i = 0; i < v.size(); ++i) {
          gelu_want.data<double>()[i] = gelu(v[i]);
        }
        const double u = unit_roundoff(type);
        // The slope of gelu is at most 1.13; its own evaluation is off by a few roundings.
        expect_close(
            gelu_want, y,
            [&](int64_t i) {
              const auto j = static_cast<size_t>(i);
              return 1.13 * bound[j] + 2 * u * std::abs(gelu(v[j])) + 0x1p-22;
            },
            what + ", gelu");
        Tensor value = poison(empty_like(pre));
        kernels::gelu_forward(pre, value);
        expect_same_bits(value, y, what + ", gelu of what was rounded");
      }
    }
  }
}

double gelu_slope(double x) {
  const double t = std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

TEST(Linear, DxThroughGeluMatchesTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const auto& [m, n, k] : kSizes) {
    if (left_out(m * n + n * k)) continue;
    for (const DType type : {DType::f32, DType::bf16}) {
      const Tensor dy = normal({m, k}, type, 1, 1), w = normal({k, n}, type, 1, 2);
      const Tensor pre = normal({m, n}, type, 2, 3);
      const Truth product = truth(dy, false, w, false, Tensor(), type);
      const std::vector<double> v = product.value.to_vector(), bound = product.bound.to_vector();
      const std::vector<double> at = pre.to_vector();
      Tensor want({m, n}, DType::f64);
      for (size_t i = 0; i < v.size(); ++i) want.data<double>()[i] = v[i] * gelu_slope(at[i]);
      Tensor dpre = poison(Tensor({m, n}, type, kGpu)), y = poison(empty_like(dpre));
      Tensor again = on_gpu(pre).clone(), value = poison(empty_like(dpre));
      kernels::linear_dx_gelu(on_gpu(dy), on_gpu(w), on_gpu(pre), dpre, y);
      kernels::linear_dx_gelu(on_gpu(dy), on_gpu(w), again, again, y);
      kernels::gelu_forward(on_gpu(pre), value);
      const std::string what = cat(m, "x", n, "x", k, " ", to_string(type), " dx through gelu");
      const double u = unit_roundoff(type), slack = type == DType::bf16 ? 0x1p-10 : 0x1p-21;
      expect_close(
          want, dpre,
          [&](int64_t i) {
            const auto j = static_cast<size_t>(i);
            return 1.13 * bound[j] + 2 * u * std::abs(want.data<double>()[j]) +
                   slack * std::abs(v[j]);
          },
          what);
      expect_same_bits(dpre, again, what + ", into pre");
      expect_same_bits(value, y, what + ", gelu again");
    }
  }
}

// Large products, whole and ragged tiles: the kernel of experts finishes them where it can.
TEST(Linear, GeluOfManyRowsMatchesItsParts) {
  SKIP_WITHOUT_GPU();
  for (const auto& [m, n, k] : {Size{4096, 2048, 64}, Size{5003, 1800, 72}, Size{2048, 4096, 8}}) {
    const DType type = DType::bf16;
    const std::string what = cat(m, "x", n, "x", k);
    const Tensor x = on_gpu(normal({m, k}, type, 1, 1)), w = on_gpu(normal({n, k}, type, 0.3, 2));
    const Tensor bias = on_gpu(normal({n}, type, 1, 3)), down = on_gpu(normal({k, n}, type, 1, 4));
    Tensor pre = poison(Tensor({m, n}, type, kGpu)), y = poison(empty_like(pre));
    Tensor plain = empty_like(pre), value = empty_like(pre), again = poison(empty_like(pre));
    kernels::linear_gelu_forward(x, w, bias, pre, y);
    kernels::linear_forward(x, w, bias, plain);
    const auto close = [&](const Tensor& want, const Tensor& got, double scale) {
      expect_close(
          want.to(kCpu).to(DType::f64), got,
          [&, v = want.to_vector()](int64_t i) {
            return 0x1p-7 * std::abs(v[static_cast<size_t>(i)]) + 0x1p-16 * scale;
          },
          what);
    };
    close(plain, pre, static_cast<double>(k));
    kernels::gelu_forward(pre, value);
    expect_same_bits(value, y, what + ", gelu");
    Tensor dpre = poison(empty_like(pre)), dvalue = empty_like(pre), want = empty_like(pre);
    kernels::linear_dx_gelu(x, down, pre, dpre, again);
    expect_same_bits(y, again, what + ", gelu again");
    kernels::matmul(x, false, down, false, false, dvalue);
    kernels::gelu_backward(dvalue, pre, want);
    close(want, dpre, static_cast<double>(k));
    Tensor place = pre.clone();
    kernels::linear_dx_gelu(x, down, place, place, again);
    expect_same_bits(dpre, place, what + ", into pre");
    Tensor none;
    poison(place);
    kernels::linear_dx_gelu(x, down, pre, place, none);
    expect_same_bits(dpre, place, what + ", without gelu");
  }
}

// GELU on numbers that the product passes through unchanged (w = identity).
TEST(Linear, GeluIsExactToARounding) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 512, kCols = 128;
  Tensor x({kRows, kCols}, DType::f64), w = Tensor::zeros({kCols, kCols}, DType::f64);
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<double>()[i] = -10 + 20 * static_cast<double>(i) / static_cast<double>(x.numel());
  }
  for (int64_t i = 0; i < kCols; ++i) w.data<double>()[i * kCols + i] = 1;
  const Tensor narrow = x.to(DType::bf16);
  Tensor y({kRows, kCols}, DType::bf16, kGpu), pre = empty_like(y);
  kernels::linear_gelu_forward(on_gpu(narrow), on_gpu(w.to(DType::bf16)), Tensor(), pre, y);
  expect_same_bits(narrow, pre, "pre");
  const std::vector<double> in = narrow.to_vector(), out = y.to_vector();
  double worst_relative = 0, worst_absolute = 0, at = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const double want = gelu(in[i]), off = std::abs(out[i] - want);
    worst_absolute = std::max(worst_absolute, off - 0x1p-8 * std::abs(want));
    if (in[i] > -3 && off / std::abs(want) > worst_relative) {
      worst_relative = off / std::abs(want), at = in[i];
    }
  }
  RecordProperty("worst_absolute_beyond_rounding", std::to_string(worst_absolute));
  std::printf("gelu: beyond rounding %.3g absolute; above -3: %.3g relative at %.3g\n",
              worst_absolute, worst_relative, at);
  EXPECT_LE(worst_absolute, 1e-3);
}

}  // namespace
}  // namespace pyramoe::gputest
