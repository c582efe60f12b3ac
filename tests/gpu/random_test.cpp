// Dropout draws the same words on both devices, so its twins agree bit for bit. What a replayed
// graph draws is told by device memory (RngNow): the same numbers as those told by value.
#include "core/kernels/random.h"

#include "core/graph.h"
#include "core/kernels/attention.h"
#include "core/kernels/moe.h"

#include "tests/gpu/twins.h"

namespace pyramoe::gputest {
namespace {

TEST(Dropout, TwinsAgreeBitForBit) {
  SKIP_WITHOUT_GPU();
  const RngKey key{.seed = 7, .purpose = RngPurpose::dropout, .step = 3, .layer = 5};
  for (DType d : kNarrow) {
    for (const Shape& shape :
         std::vector<Shape>{{1, 1}, {3, 5}, {31, 33}, {200, 1024}, {7, 1025}, {0, 8}}) {
      for (int64_t first : {int64_t{0}, int64_t{3}, int64_t{1} << 33}) {
        for (const double p : {0.0, 0.1, 0.9}) {
          for (const bool aligned : {true, false}) {
            const std::string what = name_of("dropout", d, shape);
            const Twins t = run_twins(
                {{normal(shape, d)}, {Tensor(shape, d)}},
                [&](const Tensors& x, Tensors& y) {
                  kernels::dropout(aligned ? x[0] : off_border(x[0]), p, key, first, y[0]);
                },
                {}, what);
            expect_same_bits(t.cpu[0], t.gpu[0], what);
          }
        }
      }
    }
  }
}

// A kernel that draws, on rows that begin at sequence `sequence`, row `row`.
using Draw = std::function<Tensor(const RngKey& key, int64_t sequence, int64_t row)>;

std::string bytes_of(const Tensor& x) {
  const Tensor here = x.to(kCpu);
  return {static_cast<const char*>(here.raw()), static_cast<size_t>(here.bytes())};
}

// A graph is recorded at step 3 and sequence 2, then replayed four steps and a few sequences on.
void expect_same_draws(const char* what, const Draw& draw) {
  const auto key = [](uint32_t step, const Tensor& now) {
    return RngKey{7, RngPurpose::test, step, 2,
                  now.defined() ? static_cast<const RngNow*>(now.raw()) : nullptr};
  };
  constexpr int64_t kRows = 6;
  const Tensor now = Tensor::zeros({3}, DType::i64, kGpu);
  const Tensor first = draw(key(3, now), 2, 2 * kRows);
  expect_same_bits(draw(key(3, {}), 2, 2 * kRows), first, what);
  Tensor out;
  Graph graph;
  graph.capture(kGpu, 1 << 20, [&] { out = draw(key(3, now), 2, 2 * kRows); });
  for (const int64_t more : {5, 1}) {
    now.copy_from(Tensor::from(std::vector<int64_t>{4, more, more * kRows}, {3}));
    graph.replay();
    const Tensor want = draw(key(7, {}), 2 + more, (2 + more) * kRows);
    expect_same_bits(want, out, what);
    EXPECT_NE(bytes_of(want), bytes_of(first)) << what << ": every draw is the same";
  }
}

TEST(RngNow, KernelsDrawTheSameFromDeviceMemory) {
  SKIP_WITHOUT_GPU();
  for (const DType d : kNarrow) {
    for (const int64_t width : {1, 5, 8, 64}) {
      const Tensor x = on_gpu(normal({12, width}, d));
      const auto noise = [&x](auto kernel) {
        return [&x, kernel](const RngKey& key, int64_t, int64_t row) {
          Tensor y = poisoned_like(x);
          kernel(key, row, y);
          return y;
        };
      };
      expect_same_draws("dropout", noise([&](const RngKey& key, int64_t row, Tensor& y) {
                          kernels::dropout(x, 0.5, key, row, y);
                        }));
      expect_same_draws("jitter", noise([&](const RngKey& key, int64_t row, Tensor& y) {
                          kernels::jitter(x, 0.5, key, row, y);
                        }));
      expect_same_draws("add_gumbel", noise([&](const RngKey& key, int64_t row, Tensor& y) {
                          kernels::add_gumbel(x, key, row, y);
                        }));
    }
  }
}

TEST(RngNow, TokensAreSelectedTheSame) {
  SKIP_WITHOUT_GPU();
  const Tensor expert = on_gpu(ids({96, 2}, 4)), score = on_gpu(normal({96, 2}));
  expect_same_draws("token selection", [&](const RngKey& key, int64_t, int64_t row) {
    Tensor kept({96, 2}, DType::u8, kGpu);
    kernels::keep_within_capacity(expert, score, 4, 48, 5, kernels::DropBy::random, key, row, kept);
    return kept;
  });
}

TEST(RngNow, AttentionDropsTheSame) {
  SKIP_WITHOUT_GPU();
  for (const auto& [d, dim] : {std::pair{DType::f32, 16}, {DType::bf16, 16}, {DType::bf16, 64}}) {
    const Tensor qkv = on_gpu(normal({2, 33, 3, 2, dim}, d));
    const Tensor dy = on_gpu(normal({2, 33, 2 * dim}, d));
    expect_same_draws("attention", [&](const RngKey& key, int64_t sequence, int64_t) {
      const kernels::AttentionDropout dropout{0.3, key, sequence, 0, 2};
      Tensor y = poisoned_like(dy), dqkv = poisoned_like(qkv);
      Tensor lse({2, 2, 33}, DType::f32, kGpu);
      kernels::attention_forward(qkv, dropout, y, lse);
      kernels::attention_backward(dy, qkv, y, lse, dropout, dqkv);
      return dqkv;
    });
  }
}

}  // namespace
}  // namespace pyramoe::gputest
