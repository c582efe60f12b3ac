// Softmax twins, for rows of a warp and rows of a block.
#include "core/kernels/softmax.h"

#include "tests/gpu/twins.h"

namespace pyramoe::gputest {
namespace {

const std::vector<Shape> kShapes = fitting(
    {{1, 1}, {3, 2}, {5, 31}, {31, 33}, {1000, 128}, {7, 1024}, {9, 1025}, {3, 50257}, {0, 16}});

TEST(Softmax, ForwardAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (const Shape& shape : kShapes) {
      const Twins t =
          run_twins({{normal(shape, d, 3)}, {normal(shape, d)}},
                    [](const Tensors& x, Tensors& y) { kernels::softmax_forward(x[0], y[0]); });
      // An exponent of size up to 30 is rounded to 2^-24 of itself: 64 units.
      expect_close(t.cpu[0], t.gpu[0], 2 * unit_roundoff(d) + 64 * 0x1p-24, 1e-37,
                   name_of("softmax_forward", d, shape));
    }
  }
}

TEST(Softmax, BackwardAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (const Shape& shape : kShapes) {
      Tensor y(shape, DType::f64);
      kernels::softmax_forward(normal(shape, DType::f64, 2), y);
      const Call call{{normal(shape, d, 1, 5), y.to(d)}, {normal(shape, d)}};
      const Twins t = run_twins(call, [](const Tensors& x, Tensors& dx) {
        kernels::softmax_backward(x[0], x[1], dx[0]);
      });
      const auto p = call.in[1].to_vector(), want = t.cpu[0].to_vector();
      expect_close(
          t.cpu[0], t.gpu[0],
          [&](int64_t i) {  // y (dy - dot), |dy| up to 5, |dot| too
            const auto k = static_cast<size_t>(i);
            return 2 * unit_roundoff(d) * std::abs(want[k]) + 64 * 0x1p-24 * p[k];
          },
          name_of("softmax_backward", d, shape));
    }
  }
}

TEST(Softmax, ARowWithNanIsNanAndItsNeighboursAreNot) {
  SKIP_WITHOUT_GPU();
  for (int64_t d : {int64_t{40}, int64_t{3000}}) {
    Tensor x = normal({3, d});
    x.data<float>()[d + 1] = NAN;
    Tensor y = poisoned_like(x);
    kernels::softmax_forward(on_gpu(x), y);
    const std::vector<double> got = y.to_vector();
    for (int64_t i = 0; i < 3 * d; ++i) {
      EXPECT_EQ(std::isnan(got[static_cast<size_t>(i)]), i / d == 1) << i;
    }
  }
}

}  // namespace
}  // namespace pyramoe::gputest
