// Optimizer twins: every pair of gradient and parameter dtypes, odd lengths, skipped steps.
#include "core/kernels/adam.h"

#include "tests/gpu/twins.h"

namespace pyramoe::gputest {
namespace {

const std::vector<int64_t> kSizes = fitting({1, 7, 33, 1025, 300007});
// The last: more than all blocks take in one turn, where blocks walk.
const std::vector<int64_t> kMoreSizes = fitting({1, 7, 33, 1025, 300007, 2000003});

Tensor scalars(bool skip) {
  return Tensor::from(std::vector<double>{3e-4, 0.271, 0.0975, 0.37, skip ? 1.0 : 0.0, 12.5}, {6});
}

// out: master, m, v, param. A parameter in f32 is its own master.
Call update_call(int64_t n, DType grad, DType param, bool skip) {
  Tensor v = normal({n}, DType::f32, 1e-3, 4);
  for (float& x : v.span<float>()) x *= x;
  return {{normal({n}, grad, 0.1, 1), scalars(skip)},
          {normal({n}, DType::f32, 1, 2), normal({n}, DType::f32, 1e-2, 3), v,
           normal({n}, param, 1, 5)}};
}

// `cancels`: what may be left of the terms of m (0.06 together in AdamW) where they cancel.
void check(const Twins& t, const std::string& what, double cancels = 4 * 0x1p-24 * 0.06) {
  const char* names[] = {" master", " m", " v", " param"};
  for (size_t i = 0; i < 4; ++i) {
    // A handful of f32 operations, of which some may be fused; m may cancel.
    const double rel = (i == 3 ? 2 : 16) * unit_roundoff(t.cpu[i].dtype());
    expect_close(t.cpu[i], t.gpu[i], rel,
                 i == 1   ? cancels
                 : i == 2 ? 1e-12
                          : 4e-7,
                 what + names[i]);
  }
}

TEST(Adam, TwinsAgree) {
  SKIP_WITHOUT_GPU();
  for (DType g : kNarrow) {
    for (DType p : kNarrow) {
      for (int64_t n : kSizes) {
        for (const double decay : {0.0, 0.1}) {
          const kernels::AdamWOptions options{0.9, 0.95, 1e-8, decay};
          const std::string what = cat("adamw_step ", to_string(g), " ", to_string(p), " ", n);
          const Twins t = run_twins(
              update_call(n, g, p, false),
              [&](const Tensors& x, Tensors& y) {
                Tensor param = p == DType::f32 ? y[0] : y[3];
                kernels::adamw_step(x[0], options, x[1], y[0], y[1], y[2], param);
              },
              {0, 1, 2, 3}, what);
          check(t, what);
        }
      }
    }
  }
}

TEST(Adam, SgdTwinsAgree) {
  SKIP_WITHOUT_GPU();
  for (DType g : kNarrow) {
    for (DType p : kNarrow) {
      for (int64_t n : kSizes) {
        for (const bool momentum : {false, true}) {
          const std::string what = cat("sgd_step ", to_string(g), " ", to_string(p), " ", n);
          const Twins t = run_twins(
              update_call(n, g, p, false),
              [&](const Tensors& x, Tensors& y) {
                Tensor none;
                kernels::sgd_step(x[0], momentum ? 0.9 : 0, 0.01, x[1], y[0],
                                  momentum ? y[1] : none, y[3]);
              },
              {0, 1, 2, 3}, what);
          check(t, what, 4 * 0x1p-24 * 0.3);  // gradient, momentum and decay: 0.3 together
        }
      }
    }
  }
}

// The random bits are the same on both devices; what they are added to may differ in its last bits,
// so a result may be the other neighbour, rarely.
TEST(Adam, RoundedTwinsAgree) {
  SKIP_WITHOUT_GPU();
  const RngKey key{.seed = 5, .purpose = RngPurpose::weight_rounding, .layer = 2};
  for (DType g : kNarrow) {
    for (int64_t n : kMoreSizes) {
      for (int64_t first_id : {int64_t{0}, int64_t{7}, (int64_t{1} << 34) + 2}) {
        const Call from = update_call(n, g, DType::bf16, false);
        const Call call{
            {from.in[0],
             Tensor::from(std::vector<double>{3e-4, 0.271, 0.0975, 0.37, 0, 12.5, 41}, {7})},
            {from.out[3], from.out[1].to(DType::bf16), from.out[2].to(DType::bf16)}};
        const std::string what = cat("adamw_step_rounded ", to_string(g), " ", n, " ", first_id);
        const Twins t = run_twins(
            call,
            [&](const Tensors& x, Tensors& y) {
              kernels::adamw_step_rounded(x[0], {}, x[1], key, first_id, y[0], y[1], y[2]);
            },
            {0, 1, 2}, what);
        for (size_t i = 0; i < 3; ++i) {
          expect_close(t.cpu[i], t.gpu[i], 2 * unit_roundoff(DType::bf16), 1e-9, what);
          const std::vector<double> a = t.cpu[i].to_vector(), b = t.gpu[i].to_vector();
          int64_t other = 0;
          for (size_t k = 0; k < a.size(); ++k) other += a[k] != b[k];
          EXPECT_LE(other, 2 + n / 500) << what << " state " << i;
        }
      }
    }
  }
}

// A gradient that is no number stays visible in the state.
TEST(Adam, RoundingKeepsWhatIsNoNumber) {
  SKIP_WITHOUT_GPU();
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> gradient{0.1, std::nan(""), -0.2, infinity, 0.3, -infinity, 0.4, 0.5};
  const int64_t n = std::ssize(gradient);
  const Call from = update_call(n, DType::bf16, DType::bf16, false);
  const Call call{{Tensor::from(gradient, {n}).to(DType::bf16),
                   Tensor::from(std::vector<double>{3e-4, 0.271, 0.0975, 0.37, 0, 12.5, 41}, {7})},
                  {from.out[3], from.out[1].to(DType::bf16), from.out[2].to(DType::bf16)}};
  const Twins t =
      run_twins(call,
                [&](const Tensors& x, Tensors& y) {
                  kernels::adamw_step_rounded(x[0], {}, x[1], {.seed = 5}, 0, y[0], y[1], y[2]);
                },
                {0, 1, 2});
  for (size_t i = 0; i < 3; ++i) {
    const std::vector<double> a = t.cpu[i].to_vector(), b = t.gpu[i].to_vector();
    for (size_t k = 0; k < a.size(); ++k) {
      const std::string what = cat("state ", i, ", element ", k);
      EXPECT_EQ(std::isnan(a[k]), std::isnan(b[k])) << what;
      if (std::isinf(a[k])) {
        EXPECT_EQ(a[k], b[k]) << what;
      }
      if (std::isfinite(a[k])) {
        EXPECT_NEAR(a[k], b[k], std::abs(a[k]) * 2 * unit_roundoff(DType::bf16)) << what;
      }
    }
  }
}

TEST(Adam, UnalignedRangesAgreeAndTheirNeighboursStay) {
  SKIP_WITHOUT_GPU();
  const int64_t n = 5003;
  const Call call = update_call(n, DType::bf16, DType::bf16, false);
  const Twins t =
      run_twins(call,
                [&](const Tensors& x, Tensors& y) {
                  Tensor master = y[0].rows(1, n - 1), m = y[1].rows(1, n - 1),
                         v = y[2].rows(1, n - 1), param = y[3].rows(1, n - 1);
                  kernels::adamw_step(x[0].rows(1, n - 1), {}, x[1], master, m, v, param);
                },
                {0, 1, 2, 3});
  check(t, "a range");
  for (size_t i = 0; i < 4; ++i) {
    expect_same_bits(call.out[i].rows(0, 1), t.gpu[i].rows(0, 1), "before");
    expect_same_bits(call.out[i].rows(n - 1, n), t.gpu[i].rows(n - 1, n), "after");
  }
}

TEST(Adam, ASkippedStepWritesNothing) {
  SKIP_WITHOUT_GPU();
  const Call call = update_call(1025, DType::f32, DType::bf16, true);
  const Twins a = run_twins(call,
                            [](const Tensors& x, Tensors& y) {
                              kernels::adamw_step(x[0], {}, x[1], y[0], y[1], y[2], y[3]);
                            },
                            {0, 1, 2, 3});
  const Twins s = run_twins(call,
                            [](const Tensors& x, Tensors& y) {
                              kernels::sgd_step(x[0], 0.9, 0.1, x[1], y[0], y[1], y[3]);
                            },
                            {0, 1, 2, 3});
  for (size_t i = 0; i < 4; ++i) {
    expect_same_bits(call.out[i], a.gpu[i], "adamw_step");
    expect_same_bits(call.out[i], s.gpu[i], "sgd_step");
  }
}

}  // namespace
}  // namespace pyramoe::gputest
