// Element-wise twins and casts, at sizes around packs and blocks, on and off 16-byte borders.
#include "core/kernels/elementwise.h"

#include "core/kernels/cast.h"
#include "tests/gpu/twins.h"

namespace pyramoe::gputest {
namespace {

const std::vector<int64_t> kSizes = fitting({1, 7, 8, 33, 1025, 4096, 100003});

// Elements of one result in one dtype may differ by the last bit.
void check_map(const char* name, DType x, DType y, const RunKernel& run, double rel,
               bool accumulate = false) {
  for (int64_t n : kSizes) {
    for (const bool aligned : {true, false}) {
      Call call{{normal({n}, x, 2, 1), normal({n}, x, 2, 2)}, {normal({n}, y, 1, 3)}};
      RunKernel placed = run;
      if (!aligned) {
        placed = [&](const Tensors& in, Tensors& out) {
          Tensors moved{off_border(in[0]), off_border(in[1])}, result{off_border(out[0])};
          run(moved, result);
          out[0].copy_from(result[0]);
        };
      }
      const std::string what = name_of(name, y, {n}) + (aligned ? "" : " off border");
      const Twins t = run_twins(call, placed,
                                accumulate ? std::vector<size_t>{0} : std::vector<size_t>{}, what);
      expect_close(t.cpu[0], t.gpu[0], rel * unit_roundoff(y), 1e-37, what);
    }
  }
}

TEST(Elementwise, TwinsAgree) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    check_map(
        "add", d, d, [](const Tensors& x, Tensors& y) { kernels::add(x[0], x[1], y[0]); }, 0);
    check_map(
        "multiply", d, d, [](const Tensors& x, Tensors& y) { kernels::multiply(x[0], x[1], y[0]); },
        0);
    check_map(
        "scale", d, d, [](const Tensors& x, Tensors& y) { kernels::scale(x[0], 0.3, y[0]); }, 0);
    check_map(
        "gelu_forward", d, d,
        [](const Tensors& x, Tensors& y) { kernels::gelu_forward(x[0], y[0]); }, 16);
    check_map(
        "add in place", d, d, [](const Tensors& x, Tensors& y) { kernels::add(x[0], y[0], y[0]); },
        0, true);
    for (DType e : kNarrow) {
      check_map(
          "accumulate", d, e, [](const Tensors& x, Tensors& y) { kernels::accumulate(x[0], y[0]); },
          0, true);
    }
  }
}

// The slope is near 0 where its terms cancel: the bound is of their size, |dy| max(1, |x|).
TEST(Elementwise, GeluBackwardAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (int64_t n : kSizes) {
      const Call call{{normal({n}, d, 1, 1), normal({n}, d, 4, 2)}, {normal({n}, d)}};
      const Twins t = run_twins(
          call, [](const Tensors& x, Tensors& y) { kernels::gelu_backward(x[0], x[1], y[0]); });
      const auto dy = call.in[0].to_vector(), x = call.in[1].to_vector(), y = t.cpu[0].to_vector();
      expect_close(
          t.cpu[0], t.gpu[0],
          [&](int64_t i) {
            const auto k = static_cast<size_t>(i);
            const double u = unit_roundoff(d);
            return 2 * u * std::abs(y[k]) +
                   0x1p-20 * std::abs(dy[k]) * std::max(1.0, std::abs(x[k]));
          },
          name_of("gelu_backward", d, {n}));
    }
  }
}

TEST(Elementwise, GeluKeepsItsLimits) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    const Tensor x =
        Tensor::from(std::vector<float>{-1e30f, -100, -10, 0, 10, 100, 1e30f, NAN}, {8}).to(d);
    const Call call{{Tensor::full({8}, d, 1), x}, {x}};
    const Twins f =
        run_twins(call, [](const Tensors& in, Tensors& y) { kernels::gelu_forward(in[1], y[0]); });
    expect_close(f.cpu[0], f.gpu[0], 2 * unit_roundoff(d), 1e-20, "gelu_forward");
    const Twins b = run_twins(
        call, [](const Tensors& in, Tensors& y) { kernels::gelu_backward(in[0], in[1], y[0]); });
    expect_close(b.cpu[0], b.gpu[0], 4 * unit_roundoff(d), 1e-12, "gelu_backward");
  }
}

TEST(Elementwise, ScaleByReadsItsFactorOnTheDevice) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (DType f : {DType::f64, DType::f32, DType::bf16}) {
      const Call call{{normal({1003}, d), Tensor::scalar(0.37, f)}, {normal({1003}, d)}};
      const Twins t = run_twins(
          call, [](const Tensors& x, Tensors& y) { kernels::scale_by(x[0], x[1], y[0]); });
      expect_close(t.cpu[0], t.gpu[0], 0, 0, name_of("scale_by", f, {1003}));
    }
  }
}

TEST(Elementwise, AddScaledAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType x : kNarrow) {
    for (DType y : kNarrow) {
      for (const bool add : {false, true}) {
        for (int64_t n : kSizes) {
          const Call call{{normal({n}, x), Tensor::scalar(0.37, DType::f32)},
                          {normal({n}, y, 1, 5)}};
          const Twins t = run_twins(
              call,
              [=](const Tensors& in, Tensors& out) {
                kernels::add_scaled(in[0], in[1], add, out[0]);
              },
              add ? std::vector<size_t>{0} : std::vector<size_t>{});
          // One rounding less where the multiply-add is fused: of the term, up to 5.
          expect_close(t.cpu[0], t.gpu[0], 2 * unit_roundoff(y), 0x1p-22,
                       name_of("add_scaled", y, {n}));
        }
      }
    }
  }
}

TEST(Elementwise, FillWritesEveryType) {
  SKIP_WITHOUT_GPU();
  for (DType d : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8}) {
    for (int64_t n : {0, 1, 7, 16, 33, 5001}) {
      const Tensor y = poison(Tensor({n + 3}, d, kGpu));
      Tensor middle = y.rows(1, n + 1);  // the neighbours must stay as they are
      kernels::fill(3, middle);
      const std::vector<double> got = y.to_vector();
      for (int64_t i = 1; i <= n; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], 3) << to_string(d);
      const Tensor rest = poison(Tensor({1}, d));
      expect_same_bits(y.rows(0, 1), rest, "before");
      expect_same_bits(y.rows(n + 1, n + 2), rest, "after");
    }
  }
}

TEST(Cast, TwinsAgreeBitForBit) {
  SKIP_WITHOUT_GPU();
  const std::vector<DType> all{DType::f64, DType::f32, DType::bf16, DType::i32, DType::i64};
  for (DType from : all) {
    for (DType to : all) {
      for (int64_t n : kSizes) {
        const Call call{{normal({n}, DType::f64, 100).to(from)}, {Tensor({n}, to)}};
        const Twins t =
            run_twins(call, [](const Tensors& x, Tensors& y) { kernels::cast(x[0], y[0]); });
        expect_same_bits(t.cpu[0], t.gpu[0], cat("cast ", to_string(from), " to ", to_string(to)));
      }
    }
  }
}

TEST(Cast, RoundsToNearestEvenAndKeepsSpecialNumbers) {
  SKIP_WITHOUT_GPU();
  const float inf = INFINITY;
  const Tensor x = Tensor::from(
      std::vector<float>{1.00390625f, 1.01171875f, -1.00390625f, 3.4e38f, inf, -inf, 1e-40f, -0.0f},
      {8});
  const Tensor want = x.to(DType::bf16), got = on_gpu(x).to(DType::bf16);
  expect_same_bits(want, got, "rounding");
  EXPECT_TRUE(std::isnan(on_gpu(Tensor::scalar(NAN, DType::f32)).to(DType::bf16).item()));
}

}  // namespace
}  // namespace pyramoe::gputest
