// Properties of routing over generated cases, against a reference written with plain loops. A
// failure prints the seed of its case; cases grow, so the first one printed is a small one.
#include <algorithm>
#include <numeric>
#include <set>

#include "autograd/ops.h"
#include "core/kernels/moe.h"
#include "tests/moe/support.h"

namespace pyramoe::moe {
namespace {

constexpr int kCases = 20000;

// A case is a function of its number alone.
struct Case {
  explicit Case(uint64_t number) : seed(number) {
    const int64_t size = 1 + static_cast<int64_t>(number) * 12 / kCases;  // 1 … 12
    experts = below(2 * size) + 1;
    config.dim = experts;  // an identity router: logits are the input
    config.top_k = below(std::min<int64_t>(experts, 5)) + 1;
    config.group = below(3) + 1;
    batch = config.group * (below(4) + 1);
    length = below(2 * size) + 1;
    factor_16 = std::vector<int64_t>{0, 0, 4, 8, 12, 16, 16, 20, 40, 1600}[pick(10)];
    config.capacity_factor = static_cast<double>(factor_16) / 16;
    config.min_capacity = below(3) + 1;
    config.drop_by = std::vector<std::string>{"position", "probability", "random"}[pick(3)];
    config.gate = pick(4) == 0 ? "sigmoid_bias" : "softmax";
    config.noise = pick(4) == 0 ? "rsample" : "none";
    config.renormalize = pick(2) == 0;
    config.force_balance = pick(16) == 0;
    config.balance_loss = pick(2) == 0 ? "all" : "first";
    dtype = pick(2) == 0 ? DType::f32 : DType::f64;
    context = context_of(batch, length, pick(8) != 0);
    context.first_sequence = config.group * below(5);
    levels = pick(3) == 0 ? 2 : 1 << 10;  // few levels: ties everywhere
    logits = make_logits();
  }

  uint64_t pick(uint64_t n) { return random_u32({seed, RngPurpose::test, 1}, draws++) % n; }
  int64_t below(int64_t n) { return static_cast<int64_t>(pick(static_cast<uint64_t>(n))); }

  // Multiples of 1/256 in [-4, 4], so that adding a whole number is exact.
  Tensor make_logits() {
    Tensor x({batch * length, experts}, DType::f64);
    for (int64_t i = 0; i < x.numel(); ++i) {
      const auto step = static_cast<double>(below(2 * levels + 1) - levels);
      x.data<double>()[i] = step / levels * 4;
    }
    return x;
  }

  int64_t rows() const { return batch * length; }
  int64_t group_size() const { return config.group * length; }
  // ceil(S k f / E) in whole numbers, within [min_capacity, S]; S where nothing may be dropped.
  int64_t capacity() const {
    const int64_t s = group_size();
    if (!context.training || factor_16 == 0) return s;
    const int64_t share = (s * config.top_k * factor_16 + 16 * experts - 1) / (16 * experts);
    return std::min(s, std::max(share, config.min_capacity));
  }

  uint64_t seed, draws = 0;
  ModelConfig config = small_config();
  int64_t experts = 0, batch = 0, length = 0, factor_16 = 0;
  int levels = 0;
  DType dtype = DType::f64;
  nn::Context context;
  Tensor logits;
};

std::unique_ptr<Router> identity_router(const Case& c) {
  auto router = std::make_unique<Router>(
      c.config, LayerPlan{FfnKind::moe, c.experts, c.config.top_k, 1}, nn::Build{c.dtype, kCpu});
  Tensor one = Tensor::zeros({c.experts, c.experts}, DType::f64);
  for (int64_t e = 0; e < c.experts; ++e) one.data<double>()[e * c.experts + e] = 1;
  router->parameters()[0]->var.value().copy_from(one.to(c.dtype));
  if (router->has_bias()) {
    router->bias().copy_from(normal({c.experts}, c.seed, 0.1).to(c.dtype));
  }
  return router;
}

// What a router must give, by plain loops.
struct Reference {
  std::vector<int32_t> expert, row, offsets, load;
};

std::vector<int32_t> best_experts(const Case& c, const Router& router) {
  if (c.config.force_balance) {
    std::vector<int32_t> all;
    for (int64_t i = 0; i < c.rows() * c.config.top_k; ++i) {
      all.push_back(
          static_cast<int32_t>((c.context.first_token() * c.config.top_k + i) % c.experts));
    }
    return all;
  }
  Tensor x = c.logits.to(c.dtype);
  if (c.context.training && c.config.noise == "rsample") {
    Tensor noisy = empty_like(x);
    kernels::add_gumbel(x, c.context.key(RngPurpose::gate_rsample), c.context.first_token(), noisy);
    x = noisy;
  }
  Tensor score = x;
  if (router.has_bias()) {
    score = empty_like(x);
    kernels::sigmoid_rows_forward(x, score);
    for (int64_t i = 0; i < x.numel(); ++i) {
      if (c.dtype == DType::f32) {
        score.data<float>()[i] += router.bias().data<float>()[i % c.experts];
      } else {
        score.data<double>()[i] += router.bias().data<double>()[i % c.experts];
      }
    }
  }
  const std::vector<double> s = score.to_vector();
  std::vector<int32_t> chosen;
  for (int64_t n = 0; n < c.rows(); ++n) {
    std::vector<int32_t> order(static_cast<size_t>(c.experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return s[static_cast<size_t>(n * c.experts + a)] > s[static_cast<size_t>(n * c.experts + b)];
    });
    chosen.insert(chosen.end(), order.begin(), order.begin() + c.config.top_k);
  }
  return chosen;
}

// Choices of one group for one expert, those who keep a place first.
void sort_by_policy(const Case& c, const std::vector<double>& weight, std::vector<int64_t>& all,
                    int32_t expert) {
  const int64_t k = c.config.top_k;
  const auto rank = [&](int64_t i) -> double {
    if (c.config.drop_by == "position") return -static_cast<double>(i % k);
    if (c.config.drop_by == "probability") return weight[static_cast<size_t>(i)];
    const int64_t token = c.context.first_token() + i / k;
    return random_u32(c.context.key(RngPurpose::token_selection),
                      static_cast<uint64_t>(token * c.experts + expert));
  };
  std::stable_sort(all.begin(), all.end(), [&](int64_t a, int64_t b) { return rank(a) > rank(b); });
}

// `score` (N, k): a choice's weight before drops.
Reference reference(const Case& c, const Router& router, const std::vector<double>& score) {
  Reference r{best_experts(c, router), {}, {0}, {}};
  const int64_t k = c.config.top_k;
  std::vector<bool> kept(r.expert.size());
  for (int32_t e = 0; e < c.experts; ++e) {
    r.load.push_back(static_cast<int32_t>(std::count(r.expert.begin(), r.expert.end(), e)));
    for (int64_t first = 0; first < c.rows(); first += c.group_size()) {
      std::vector<int64_t> all;
      for (int64_t i = first * k; i < (first + c.group_size()) * k; ++i) {
        if (r.expert[static_cast<size_t>(i)] == e) all.push_back(i);
      }
      sort_by_policy(c, score, all, e);
      for (size_t i = 0; i < all.size() && i < static_cast<size_t>(c.capacity()); ++i) {
        kept[static_cast<size_t>(all[i])] = true;
      }
    }
  }
  r.row.assign(r.expert.size(), -1);
  int32_t next = 0;
  for (int32_t e = 0; e < c.experts; ++e) {
    for (size_t i = 0; i < r.expert.size(); ++i) {
      if (r.expert[i] == e && kept[i]) r.row[i] = next++;
    }
    r.offsets.push_back(next);
  }
  return r;
}

std::vector<int32_t> ints(const Tensor& x) {
  return {x.span<int32_t>().begin(), x.span<int32_t>().end()};
}

// A choice's weight before drops, as the gate defines it.
std::vector<double> scores_of(const Case& c, const std::vector<int32_t>& expert) {
  const Tensor x = c.logits.to(c.dtype);
  const Tensor p =
      c.config.gate == "softmax" ? ops::softmax(Var(x)).value() : ops::sigmoid_rows(Var(x)).value();
  const std::vector<double> all = p.to_vector();
  std::vector<double> score;
  for (size_t i = 0; i < expert.size(); ++i) {
    const size_t n = i / static_cast<size_t>(c.config.top_k);
    score.push_back(all[n * static_cast<size_t>(c.experts) + static_cast<size_t>(expert[i])]);
  }
  return score;
}

// R5: weights are the scores of the kept choices, divided by their sum where asked.
void check_weights(const Case& c, const Routing& r, const std::vector<double>& score) {
  const std::vector<double> weight = r.weight.value().to_vector();
  const std::vector<int32_t> row = ints(r.row);
  const auto k = static_cast<size_t>(c.config.top_k);
  const double ulp = c.dtype == DType::f32 ? 0x1p-23 : 0x1p-52;
  for (size_t n = 0; n < static_cast<size_t>(c.rows()); ++n) {
    double sum = 0, kept = 0;
    for (size_t i = n * k; i < (n + 1) * k; ++i) {
      ASSERT_GE(weight[i], 0);
      if (row[i] < 0) {
        ASSERT_EQ(weight[i], 0);
      }
      sum += weight[i];
      kept += row[i] < 0 ? 0 : score[i];
    }
    const double expected = c.config.renormalize ? (kept > 0 ? 1 : 0) : kept;
    ASSERT_NEAR(sum, expected, static_cast<double>(k + 1) * ulp) << "token " << n;
  }
}

void check_case(const Case& c) {
  const NoGrad no_grad;
  const auto router = identity_router(c);
  const Routing r = router->route(Var(c.logits.to(c.dtype)), c.context);
  const std::vector<int32_t> expert = ints(r.expert), row = ints(r.row);
  const std::vector<double> score = scores_of(c, expert);
  const Reference want = reference(c, *router, score);
  ASSERT_EQ(expert, want.expert) << "choices";
  ASSERT_EQ(row, want.row) << "rows (R2, R4)";
  ASSERT_EQ(ints(r.offsets), want.offsets) << "offsets (R2)";
  ASSERT_EQ(ints(r.load), want.load) << "load";
  const auto k = static_cast<size_t>(c.config.top_k);
  for (size_t i = 0; i < expert.size(); i += k) {  // R1
    const std::set<int32_t> of_token(expert.begin() + static_cast<int64_t>(i),
                                     expert.begin() + static_cast<int64_t>(i + k));
    ASSERT_EQ(of_token.size(), k);
    ASSERT_TRUE(*of_token.begin() >= 0 && *of_token.rbegin() < c.experts);
  }
  const int64_t kept = r.offsets.data<int32_t>()[c.experts];
  ASSERT_EQ(kept + r.dropped(), c.rows() * c.config.top_k);
  if (!c.context.training || c.factor_16 == 0) {
    ASSERT_EQ(r.dropped(), 0);  // R3
  }
  ASSERT_EQ(r.balance_loss.defined(), c.context.training);
  check_weights(c, r, score);
}

TEST(RoutingProperties, HoldOverGeneratedCases) {
  int64_t dropped_cases = 0;
  for (uint64_t number = 0; number < kCases; ++number) {
    const Case c(number);
    check_case(c);
    dropped_cases += c.capacity() < c.group_size();
    if (HasFatalFailure()) {
      FAIL() << "case " << number << ": E = " << c.experts << ", k = " << c.config.top_k << ", "
             << c.batch << " x " << c.length << " tokens, group " << c.config.group << ", factor "
             << c.config.capacity_factor << ", min " << c.config.min_capacity << ", "
             << c.config.drop_by << ", " << c.config.gate << ", " << c.config.noise
             << (c.context.training ? "" : ", evaluation");
    }
  }
  EXPECT_GT(dropped_cases, kCases / 4);  // the generator must reach what it is for
}

// R10. The numbers are such that adding 16 is exact; nothing may change, bit for bit.
TEST(RoutingProperties, AddingAConstantToAllLogitsChangesNothing) {
  const NoGrad no_grad;
  for (uint64_t number = 0; number < kCases; number += 10) {
    Case c(number);
    c.config.gate = "softmax";
    if (c.config.noise != "none") continue;
    const auto router = identity_router(c);
    const Tensor x = c.logits.to(c.dtype);
    const Tensor shifted = ops::add(Var(x), Var(Tensor::full(x.shape(), c.dtype, 16))).value();
    const Routing a = router->route(Var(x), c.context), b = router->route(Var(shifted), c.context);
    ASSERT_EQ(ints(a.row), ints(b.row)) << "case " << number;
    ASSERT_TRUE(equal(a.weight.value(), b.weight.value())) << "case " << number;
  }
}

// R9. Uniform probabilities: 1 for any counts, exactly where 1 / E is, else within E ulp.
TEST(RoutingProperties, TheBalanceLossIsOneAtUniformRouting) {
  const NoGrad no_grad;
  for (uint64_t number = 0; number < kCases; number += 10) {
    Case c(number);
    c.logits = Tensor::zeros(c.logits.shape(), DType::f64);
    c.context.training = true;
    const auto router = identity_router(c);
    const Routing r = router->route(Var(c.logits.to(c.dtype)), c.context);
    const bool exact = (c.experts & (c.experts - 1)) == 0;
    const double ulp = c.dtype == DType::f32 ? 0x1p-23 : 0x1p-52;
    ASSERT_NEAR(r.balance_loss.value().item(), 1, exact ? 0 : ulp * static_cast<double>(c.experts))
        << "case " << number << ", E = " << c.experts;
  }
}

// S12: whatever the logits are, ids stay in range and the loss shows what happened.
TEST(RoutingProperties, HostileLogitsStayInRange) {
  const NoGrad no_grad;
  const double inf = INFINITY;
  const std::vector<std::vector<double>> rows = {
      {NAN, 1, 2, 3},           {1, 2, NAN, 3},   {NAN, NAN, NAN, NAN},
      {inf, 1, 2, 3},           {inf, inf, 0, 0}, {-inf, 0, 1, 2},
      {-inf, -inf, -inf, -inf}, {0, 0, 0, 0},     {1e-310, 0, -1e-310, 0}};
  for (const char* gate : {"softmax", "sigmoid_bias"}) {
    for (int64_t k : {1, 2, 4}) {
      Case c(kCases - 1);
      c.experts = 4;
      c.config = small_config();
      c.config.dim = 4;
      c.config.gate = gate;
      c.config.top_k = k;
      c.config.capacity_factor = 1;
      c.config.drop_by = "probability";
      c.context = context_of(1, static_cast<int64_t>(rows.size()), true);
      c.dtype = DType::f64;
      const auto router = identity_router(c);
      router->bias().defined() ? router->bias().zero() : void();
      std::vector<double> flat;
      for (const auto& row : rows) flat.insert(flat.end(), row.begin(), row.end());
      // Identity weights would spread a NaN or inf over the row (0 * inf), so ask the gate itself.
      const Tensor logits = Tensor::from(flat, {static_cast<int64_t>(rows.size()), 4});
      const Choice choice = make_gate(gate)->choose(
          {Var(logits), logits, router->bias().defined() ? router->bias() : Tensor(), k});
      const Tensor weight = ops::take(choice.score, choice.expert).value();
      for (int64_t i = 0; i < weight.numel(); ++i) {
        const int32_t e = choice.expert.data<int32_t>()[i];
        ASSERT_TRUE(e >= 0 && e < 4) << gate << " row " << i / k;
        if (i / k < 3) {
          EXPECT_EQ(e, i % k) << gate << " row " << i / k;
          EXPECT_TRUE(std::isnan(weight.data<double>()[i])) << gate << " row " << i / k;
        }
      }
      const Routing r = router->route(Var(logits), c.context);
      const int64_t kept = r.offsets.data<int32_t>()[4];
      EXPECT_EQ(kept + r.dropped(), weight.numel());
      EXPECT_TRUE(std::isnan(r.balance_loss.value().item()));
    }
  }
}

}  // namespace
}  // namespace pyramoe::moe
