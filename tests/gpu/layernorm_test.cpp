// Layer norm twins, alone and fused with the residual add: widths of a warp, of a block, and odd
// ones, and so many rows that blocks take turns; weights in f32 and bf16. Bounds follow from the
// terms of each element.
#include "core/kernels/layernorm.h"

#include "tests/gpu/twins.h"

namespace pyramoe::gputest {
namespace {

const std::vector<Shape> kShapes = fitting({{1, 1},
                                            {3, 5},
                                            {5, 31},
                                            {2, 8},
                                            {131, 64},
                                            {67, 256},
                                            {33, 520},
                                            {200, 768},
                                            {133, 1024},
                                            {37, 1025},
                                            {21, 1600},
                                            {35, 2048},
                                            {19, 4096},
                                            {9, 8192},
                                            {5, 12288},
                                            {2, 20000},
                                            {1700, 8},
                                            {9001, 32}});

struct Rows {
  std::vector<double> x, weight, bias, mean, rstd;
  int64_t d;
};
Rows rows_of(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& mean,
             const Tensor& rstd) {
  return {x.to_vector(),    weight.to_vector(), bias.to_vector(),
          mean.to_vector(), rstd.to_vector(),   x.dim(1)};
}

// An f32 sum over a row, and a difference to its mean: some units of the largest terms.
constexpr double kRow = 24 * 0x1p-24;

void check_forward(const Twins& t, const Rows& r, size_t y, DType d, const std::string& what) {
  const std::vector<double> want = t.cpu[y].to_vector();
  expect_close(
      t.cpu[y], t.gpu[y],
      [&](int64_t i) {
        const auto k = static_cast<size_t>(i), n = static_cast<size_t>(i / r.d),
                   j = static_cast<size_t>(i % r.d);
        const double size = (std::abs(r.x[k]) + std::abs(r.mean[n]) + 1) * r.rstd[n];
        return 2 * unit_roundoff(d) * std::abs(want[k]) +
               kRow * (size * std::abs(r.weight[j]) + std::abs(r.bias[j]));
      },
      what);
  expect_close(t.cpu[y + 1], t.gpu[y + 1], 0, 16 * 0x1p-24, what + " mean");
  expect_close(t.cpu[y + 2], t.gpu[y + 2], 32 * 0x1p-24, 0, what + " rstd");
}

// Rows of mean 1.5: what cancels must cancel on both devices.
Tensor input(const Shape& shape, DType d, uint64_t seed) {
  Tensor x = normal(shape, DType::f64, 1, seed);
  for (double& v : x.span<double>()) v += 1.5;
  return x.to(d);
}

TEST(LayerNorm, ForwardAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (DType w : kNarrow) {
      for (const Shape& shape : kShapes) {
        if (shape[1] == 1) continue;  // no variance: 316 times a difference of equal numbers
        const Call call{
            {input(shape, d, 1), normal({shape[1]}, w), normal({shape[1]}, w, 1, 3)},
            {Tensor(shape, d), Tensor({shape[0]}, DType::f32), Tensor({shape[0]}, DType::f32)}};
        const std::string what = name_of("layernorm_forward", d, shape) + " weight " + to_string(w);
        const Twins t = run_twins(
            call,
            [](const Tensors& x, Tensors& y) {
              kernels::layernorm_forward(x[0], x[1], x[2], 1e-5, y[0], y[1], y[2]);
            },
            {}, what);
        check_forward(t, rows_of(call.in[0], call.in[1], call.in[2], t.cpu[1], t.cpu[2]), 0, d,
                      what);
      }
    }
  }
}

TEST(LayerNorm, AddForwardAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (const Shape& shape : kShapes) {
      if (shape[1] == 1) continue;
      const Call call{{input(shape, d, 1), normal(shape, d, 1, 2), normal({shape[1]}, d),
                       normal({shape[1]}, d, 1, 3)},
                      {Tensor(shape, d), Tensor(shape, d), Tensor({shape[0]}, DType::f32),
                       Tensor({shape[0]}, DType::f32)}};
      const std::string what = name_of("add_layernorm_forward", d, shape);
      const Twins t = run_twins(
          call,
          [](const Tensors& x, Tensors& y) {
            kernels::add_layernorm_forward(x[0], x[1], x[2], x[3], 1e-5, y[0], y[1], y[2], y[3]);
          },
          {}, what);
      expect_same_bits(t.cpu[0], t.gpu[0], what + " sum");
      check_forward(t, rows_of(t.cpu[0], call.in[2], call.in[3], t.cpu[2], t.cpu[3]), 1, d, what);
    }
  }
}

// Bounds of dx, dweight and dbias from the terms of their sums.
struct BackwardBounds {
  std::vector<double> dx, dweight, dbias;
};
BackwardBounds bounds(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
                      const Tensor& rstd) {
  const Rows r = rows_of(x, weight, weight, mean, rstd);
  const std::vector<double> g = dy.to_vector();
  const auto d = static_cast<size_t>(r.d), rows = g.size() / d;
  BackwardBounds b{std::vector<double>(g.size()), std::vector<double>(d, kRow),
                   std::vector<double>(d, kRow)};
  for (size_t n = 0; n < rows; ++n) {
    double c1 = 0, c2 = 0;
    for (size_t j = 0; j < d; ++j) {
      const double h = (std::abs(r.x[n * d + j]) + std::abs(r.mean[n])) * r.rstd[n];
      const double term = std::abs(g[n * d + j] * r.weight[j]);
      c1 += term / static_cast<double>(d);
      c2 += term * h / static_cast<double>(d);
      b.dweight[j] += kRow * std::abs(g[n * d + j]) * h;
      b.dbias[j] += kRow * std::abs(g[n * d + j]);
    }
    for (size_t j = 0; j < d; ++j) {
      const double h = (std::abs(r.x[n * d + j]) + std::abs(r.mean[n])) * r.rstd[n];
      b.dx[n * d + j] =
          kRow * r.rstd[n] * (std::abs(g[n * d + j] * r.weight[j]) + c1 + (h + 1) * c2);
    }
  }
  return b;
}
void check(const Tensor& want, const Tensor& got, const std::vector<double>& extra,
           const std::string& what, double roundings = 2) {
  const std::vector<double> y = want.to_vector();
  expect_close(
      want, got,
      [&](int64_t i) {
        const auto k = static_cast<size_t>(i);
        return roundings * unit_roundoff(want.dtype()) * std::abs(y[k]) + extra[k];
      },
      what);
}

Call backward_call(const Shape& shape, DType d, DType w, DType grad) {
  const Tensor x = input(shape, d, 1), weight = normal({shape[1]}, w);
  Tensor y(shape, d), mean({shape[0]}, DType::f32), rstd({shape[0]}, DType::f32);
  kernels::layernorm_forward(x, weight, weight, 1e-5, y, mean, rstd);
  return {{normal(shape, d, 1, 4), x, weight, mean, rstd, normal(shape, d, 1, 5)},
          {Tensor(shape, d), normal({shape[1]}, grad, 1, 6), normal({shape[1]}, grad, 1, 7)}};
}

TEST(LayerNorm, BackwardAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (DType grad : kNarrow) {
      for (const Shape& shape : kShapes) {
        if (shape[1] == 1) continue;
        for (const bool accumulate : {false, true}) {
          const Call call = backward_call(shape, d, grad, grad);
          const std::string what = name_of("layernorm_backward", d, shape) + " into " +
                                   to_string(grad) + (accumulate ? " added" : "");
          const Twins t = run_twins(
              call,
              [=](const Tensors& x, Tensors& y) {
                kernels::layernorm_backward(x[0], x[1], x[2], x[3], x[4], accumulate, y[0], y[1],
                                            y[2]);
              },
              accumulate ? std::vector<size_t>{1, 2} : std::vector<size_t>{}, what);
          const BackwardBounds b =
              bounds(call.in[0], call.in[1], call.in[2], call.in[3], call.in[4]);
          check(t.cpu[0], t.gpu[0], b.dx, what + " dx");
          check(t.cpu[1], t.gpu[1], b.dweight, what + " dweight");
          check(t.cpu[2], t.gpu[2], b.dbias, what + " dbias");
        }
      }
    }
  }
}

TEST(LayerNorm, AddBackwardAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (const Shape& shape : kShapes) {
      if (shape[1] == 1) continue;
      const Call call = backward_call(shape, d, d, DType::f32);
      const std::string what = name_of("add_layernorm_backward", d, shape);
      const Twins t = run_twins(
          call,
          [=](const Tensors& x, Tensors& y) {
            kernels::add_layernorm_backward(x[0], x[5], x[1], x[2], x[3], x[4], false, y[0], y[1],
                                            y[2]);
          },
          {}, what);
      BackwardBounds b = bounds(call.in[0], call.in[1], call.in[2], call.in[3], call.in[4]);
      // The CPU twin rounds the norm's part before it adds dh.
      const std::vector<double> dx = t.cpu[0].to_vector(), dh = call.in[5].to_vector();
      for (size_t i = 0; i < dx.size(); ++i) {
        b.dx[i] += 2 * unit_roundoff(d) * (std::abs(dx[i]) + std::abs(dh[i]));
      }
      check(t.cpu[0], t.gpu[0], b.dx, what + " dx");
      check(t.cpu[1], t.gpu[1], b.dweight, what + " dweight");
      check(t.cpu[2], t.gpu[2], b.dbias, what + " dbias");
    }
  }
}

TEST(LayerNorm, BackwardLeavesOutWhatIsNotWanted) {
  SKIP_WITHOUT_GPU();
  for (const Shape& shape : std::vector<Shape>{{33, 256}, {33, 31}}) {
    const Call call = backward_call(shape, DType::f32, DType::f32, DType::f32);
    const auto run = [](bool dx, bool dw, bool db) {
      return [=](const Tensors& x, Tensors& y) {
        Tensor none;
        kernels::layernorm_backward(x[0], x[1], x[2], x[3], x[4], false, dx ? y[0] : none,
                                    dw ? y[1] : none, db ? y[2] : none);
      };
    };
    const Twins all = run_twins(call, run(true, true, true));
    const Twins dx = run_twins(call, run(true, false, false));
    const Twins dw = run_twins(call, run(false, true, false));
    const Twins db = run_twins(call, run(false, false, true));
    expect_same_bits(all.gpu[0], dx.gpu[0], "dx alone");
    expect_same_bits(all.gpu[1], dw.gpu[1], "dweight alone");
    expect_same_bits(all.gpu[2], db.gpu[2], "dbias alone");
    expect_same_bits(poisoned_like(all.gpu[1]), dx.gpu[1], "dweight untouched");
    expect_same_bits(poisoned_like(all.gpu[0]), dw.gpu[0], "dx untouched");
  }
}

TEST(LayerNorm, NoRowsGiveZeroSums) {
  SKIP_WITHOUT_GPU();
  Tensor dx({0, 8}, DType::f32, kGpu), dw = poison(Tensor({8}, DType::f32, kGpu)),
                                       db = poison(dw.clone());
  const Tensor none({0, 8}, DType::f32, kGpu), w = on_gpu(normal({8})), stat({0}, DType::f32, kGpu);
  kernels::layernorm_backward(none, none, w, stat, stat, false, dx, dw, db);
  for (double v : dw.to_vector()) EXPECT_EQ(v, 0);
  for (double v : db.to_vector()) EXPECT_EQ(v, 0);
}

}  // namespace
}  // namespace pyramoe::gputest
