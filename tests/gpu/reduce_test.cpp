// Sums: against the CPU twin, with bounds from the sum of magnitudes.
#include "core/kernels/reduce.h"

#include "tests/gpu/twins.h"

namespace pyramoe::gputest {
namespace {

double sum_of(const Tensor& x) {
  double sum = 0;
  for (double v : x.to_vector()) sum += v;
  return sum;
}

TEST(Reduce, FlatSumsAgree) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (int64_t n : {0, 1, 7, 33, 1025, 40000, 5000011}) {
      if (left_out(n)) continue;
      for (DType out : {DType::f32, DType::f64}) {
        const Call call{{normal({n}, d, 3)}, {Tensor({1}, out)}};
        const double terms = sum_of(magnitude(call.in[0]));
        const std::string what = name_of("sum_all", d, {n});
        const Twins t = run_twins(
            call, [](const Tensors& x, Tensors& y) { kernels::sum_all(x[0], y[0]); }, {}, what);
        expect_close(t.cpu[0], t.gpu[0], 0, 4 * 0x1p-24 * terms, what);
      }
      const Call call{{normal({n}, d, 3)}, {Tensor({1}, DType::f64)}};
      const Twins t =
          run_twins(call, [](const Tensors& x, Tensors& y) { kernels::sum_squares(x[0], y[0]); });
      expect_close(t.cpu[0], t.gpu[0], 1e-13, 0, name_of("sum_squares", d, {n}));
    }
  }
}

TEST(Reduce, SumsOfUnalignedRangesAgree) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    const Tensor x = normal({70001}, d);
    Tensor want({1}, DType::f64), got({1}, DType::f64, kGpu);
    kernels::sum_squares(x.rows(1, 70001), want);
    kernels::sum_squares(on_gpu(x).rows(1, 70001), got);
    expect_close(want, got, 1e-13, 0, "sum_squares off border");
  }
}

TEST(Reduce, RowSumsAgree) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (DType out : kNarrow) {
      for (const Shape& shape : std::vector<Shape>{{0, 5},
                                                   {1, 1},
                                                   {3, 31},
                                                   {63, 33},
                                                   {64, 1025},
                                                   {1000, 72},
                                                   {20011, 256},
                                                   {130, 4096}}) {
        if (left_out(numel(shape))) continue;
        for (const bool accumulate : {false, true}) {
          const Call call{{normal(shape, d)}, {normal({shape[1]}, out, 1, 7)}};
          const std::string what = name_of("sum_rows", d, shape);
          const Twins t = run_twins(
              call,
              [=](const Tensors& x, Tensors& y) { kernels::sum_rows(x[0], accumulate, y[0]); },
              accumulate ? std::vector<size_t>{0} : std::vector<size_t>{}, what);
          const std::vector<double> terms = magnitude(call.in[0]).to_vector(),
                                    y = t.cpu[0].to_vector();
          std::vector<double> size(static_cast<size_t>(shape[1]));
          for (size_t i = 0; i < terms.size(); ++i) size[i % size.size()] += terms[i];
          expect_close(
              t.cpu[0], t.gpu[0],
              [&](int64_t i) {
                const auto j = static_cast<size_t>(i);
                return 2 * unit_roundoff(out) * std::abs(y[j]) + 8 * 0x1p-24 * (1 + size[j]);
              },
              what);
        }
      }
    }
  }
}

TEST(Reduce, WeightedSumsAgree) {
  SKIP_WITHOUT_GPU();
  for (size_t n : {size_t{0}, size_t{1}, size_t{3}, size_t{128}, size_t{129}, size_t{300}}) {
    Tensors in;
    std::vector<double> weight;
    for (size_t i = 0; i < n; ++i) {
      const DType types[] = {DType::f32, DType::bf16, DType::f64};
      in.push_back(normal({1}, types[i % 3], 1, i + 1));
      weight.push_back(0.1 * static_cast<double>(i) - 3);
    }
    in.push_back(Tensor::from(weight, {static_cast<int64_t>(n)}));
    for (DType out : {DType::f32, DType::f64}) {
      const Twins t = run_twins({in, {Tensor({1}, out)}}, [](const Tensors& x, Tensors& y) {
        kernels::weighted_sum(std::span(x).first(x.size() - 1), x.back(), y[0]);
      });
      expect_close(t.cpu[0], t.gpu[0], unit_roundoff(out), 1e-12, cat("weighted_sum of ", n));
    }
  }
}

}  // namespace
}  // namespace pyramoe::gputest
