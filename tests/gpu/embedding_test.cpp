// Table look-up twins: rows looked up never, once and thousands of times; tables of one to three
// radix passes; ids outside their table.
#include "core/kernels/embedding.h"

#include "tests/gpu/twins.h"

namespace pyramoe::gputest {
namespace {

struct Case {
  int64_t count, rows, d;
};
const std::vector<Case> kCases{{1, 1, 1},        {7, 3, 5},         {1000, 2, 64},
                               {5000, 1, 33},    {1024, 300, 768},  {8192, 50304, 16},
                               {3000, 70000, 8}, {2048, 1024, 256}, {20011, 257, 40},
                               {9000, 3, 40},    {4096, 32, 256}};

TEST(Embedding, ForwardAgreesBitForBit) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (const Case& c : kCases) {
      if (left_out((c.count + c.rows) * c.d)) continue;
      const Call call{{ids({c.count}, c.rows, 0, 1), ids({c.count}, 40, 0, 2),
                       normal({c.rows, c.d}, d, 1, 3), normal({40, c.d}, d, 1, 4)},
                      {Tensor({c.count, c.d}, d)}};
      const std::string what = name_of("embedding_forward", d, {c.rows, c.d});
      const Twins t = run_twins(
          call,
          [](const Tensors& x, Tensors& y) {
            kernels::embedding_forward(x[0], x[1], x[2], x[3], y[0]);
          },
          {}, what);
      expect_same_bits(t.cpu[0], t.gpu[0], what);
    }
  }
}

TEST(Embedding, BackwardAgrees) {
  SKIP_WITHOUT_GPU();
  for (DType d : kNarrow) {
    for (DType out : kNarrow) {
      for (const Case& c : kCases) {
        if (left_out((c.count + c.rows) * c.d)) continue;
        for (const bool accumulate : {false, true}) {
          const Call call{{normal({c.count, c.d}, d), ids({c.count}, c.rows)},
                          {normal({c.rows, c.d}, out, 1, 9)}};
          const std::string what = name_of("embedding_backward", d, {c.count, c.rows, c.d});
          const RunKernel run = [=](const Tensors& x, Tensors& y) {
            kernels::embedding_backward(x[0], x[1], accumulate, y[0]);
          };
          const Twins t = run_twins(
              call, run, accumulate ? std::vector<size_t>{0} : std::vector<size_t>{}, what);
          Tensor size({c.rows, c.d}, DType::f64);  // of the terms of each sum
          kernels::embedding_backward(magnitude(call.in[0]), call.in[1], false, size);
          const std::vector<double> y = t.cpu[0].to_vector(), terms = size.to_vector();
          expect_close(
              t.cpu[0], t.gpu[0],
              [&](int64_t i) {
                const auto k = static_cast<size_t>(i);
                return 2 * unit_roundoff(out) * std::abs(y[k]) + 8 * 0x1p-24 * terms[k];
              },
              what);
        }
      }
    }
  }
}

// Up to 64 places of one row are one chain of additions, in order of n: the CPU's very sum.
TEST(Embedding, BackwardAddsInOrder) {
  SKIP_WITHOUT_GPU();
  for (int64_t d : {8, 33}) {
    const Call call{{normal({64, d}), ids({64}, 3)}, {Tensor({3, d}, DType::f32)}};
    const Twins t = run_twins(call, [](const Tensors& x, Tensors& y) {
      kernels::embedding_backward(x[0], x[1], false, y[0]);
    });
    expect_same_bits(t.cpu[0], t.gpu[0], "one chain");
  }
}

TEST(Embedding, IdsOutsideGiveNanRowsAndTouchNothingElse) {
  SKIP_WITHOUT_GPU();
  const std::vector<int32_t> token{2, 5, 0, -1, 4, 3}, position{0, 0, 3, 0, -7, 1};
  const Tensor t = on_gpu(Tensor::from(token, {6})), p = on_gpu(Tensor::from(position, {6}));
  Tensor y({6, 40}, DType::f32, kGpu);
  kernels::embedding_forward(t, p, on_gpu(normal({5, 40})), on_gpu(normal({3, 40})), y);
  const std::vector<double> got = y.to_vector();
  for (size_t n = 0; n < 6; ++n) {
    const bool bad = token[n] < 0 || token[n] >= 5 || position[n] < 0 || position[n] >= 3;
    EXPECT_EQ(std::isnan(got[n * 40 + 9]), bad) << n;
  }
  Tensor dy = normal({6, 40}), table = poison(Tensor({5, 40}, DType::f32, kGpu));
  kernels::embedding_backward(on_gpu(dy), t, false, table);
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t j = 0; j < 40; ++j) {
      double want = 0;
      for (int64_t n = 0; n < 6; ++n) {
        if (token[static_cast<size_t>(n)] == row) want += dy.data<float>()[n * 40 + j];
      }
      EXPECT_EQ(table.to_vector()[static_cast<size_t>(row * 40 + j)], want);
    }
  }
}

}  // namespace
}  // namespace pyramoe::gputest
