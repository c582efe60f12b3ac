// Dispatch: the segments agree with the dense one-hot einsum, and going out and coming home is the
// identity.
#include "autograd/ops.h"
#include "moe/dispatch_ops.h"
#include "tests/moe/support.h"

namespace pyramoe::moe {
namespace {

constexpr int64_t kExperts = 4, kBatch = 4, kLength = 9;
constexpr int64_t kTokens = kBatch * kLength;

struct GridPoint {
  int64_t top_k, group;
  double factor;
  std::string drop_by, mix;
  bool renormalize;
};

std::vector<GridPoint> grid() {
  std::vector<GridPoint> all;
  for (int64_t k : {1, 2, 3, 4}) {
    for (double factor : {0.0, 0.5, 1.0, 1.5}) {
      for (const char* drop_by : {"position", "probability", "random"}) {
        for (int64_t group : {1, 2, 4}) {
          for (const char* mix : {"", "sum", "learned"}) {
            if (factor == 0 && (group > 1 || drop_by[0] != 'p')) continue;
            all.push_back({k, group, factor, drop_by, mix, (k + group) % 2 == 0});
          }
        }
      }
    }
  }
  return all;
}

ModelConfig config_of(const GridPoint& g, const char* dispatch) {
  ModelConfig config = small_config();
  config.top_k = g.top_k;
  config.group = g.group;
  config.capacity_factor = g.factor;
  config.drop_by = g.drop_by;
  config.renormalize = g.renormalize;
  config.residual = !g.mix.empty();
  if (config.residual) config.residual_mix = g.mix;
  config.z_coef = 1e-3;
  config.dispatch = dispatch;
  return config;
}

TEST(Dispatch, SegmentsEqualTheEinsumForm) {
  const Tensor x = normal({kTokens, 5}, 1), dy = normal({kTokens, 5}, 2);
  int64_t dropped = 0;
  for (const GridPoint& g : grid()) {
    const auto segments = make_layer(config_of(g, "segments"), kExperts);
    const auto einsum = make_layer(config_of(g, "einsum"), kExperts);
    const nn::Context context = context_of(kBatch, kLength, true);
    const Pass a = run(*segments, x, context, dy), b = run(*einsum, x, context, dy);
    expect_near(a, b, 1e-12);
    dropped += a.stats.at(0).dropped();
    if (testing::Test::HasFailure()) {
      FAIL() << "k = " << g.top_k << ", factor " << g.factor << ", " << g.drop_by << ", group "
             << g.group << ", mix \"" << g.mix << "\"";
    }
  }
  EXPECT_GT(dropped, 0);
}

Routing route(const ModelConfig& config, const Tensor& x, const nn::Context& context) {
  const auto layer = make_layer(config, kExperts, x.dtype());
  return dynamic_cast<MoeLayer&>(*layer).router().route(Var(x), context);
}

// The rows that reach an expert are the same bits in both forms, in every dtype.
TEST(Dispatch, RowsThatReachAnExpertAreIdentical) {
  ModelConfig config = small_config();
  config.top_k = 2;
  config.capacity_factor = 1;
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Tensor x = normal({kTokens, 5}, 1, 1, dtype);
    const Routing r = route(config, x, context_of(kBatch, kLength, true));
    ASSERT_GT(r.dropped(), 0);
    const EinsumSlots slots = einsum_slots(r);
    const Tensor sparse = ops::to_segments(Var(x), r.row).value();
    const Tensor dense = ops::einsum_dispatch(Var(x), slots.slot, slots.total).value();
    for (int64_t e = 0; e < kExperts; ++e) {
      const int64_t begin = r.offsets.data<int32_t>()[e], end = r.offsets.data<int32_t>()[e + 1];
      const int64_t at = slots.offsets.data<int32_t>()[e];
      EXPECT_TRUE(equal(sparse.rows(begin, end), dense.rows(at, at + end - begin)));
    }
  }
}

// R6: experts that change nothing and weights that sum to one give the input back, and its
// gradient too.
TEST(Dispatch, GoingOutAndComingHomeIsTheIdentity) {
  for (const char* dispatch : {"segments", "einsum"}) {
    for (int64_t k : {1, 2, 4}) {
      ModelConfig config = small_config();
      config.top_k = k;
      config.renormalize = true;
      const Tensor x = normal({kTokens, 5}, 1), dy = normal({kTokens, 5}, 2);
      const Routing r = route(config, x, context_of(kBatch, kLength, true));
      const auto dispatcher = make_dispatcher(dispatch);
      const Var in(x, true);
      Pending out = dispatcher->send(in, r);
      const Segments there = dispatcher->receive(out);
      Pending home = dispatcher->send_back(there, r);
      const Var y = dispatcher->receive_back(home);
      backward(y, dy);
      const double tolerance = k == 1 ? 0 : 1e-15;
      EXPECT_TRUE(near(y.value(), x, tolerance)) << dispatch << ", k = " << k;
      EXPECT_TRUE(near(in.grad(), dy, tolerance)) << dispatch << ", k = " << k;
    }
  }
}

TEST(Dispatch, RefusesAnUnknownName) {
  try {
    make_dispatcher("carrier pigeon");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::config);
  }
}

}  // namespace
}  // namespace pyramoe::moe
