// Rows of the mixture-of-experts ops. Segment tensors have rows that nobody owns; fresh memory is
// NaN here, so an op that reads one is found.
#include <cmath>

#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

const RngKey kKey{7, RngPurpose::gate_jitter, 3, 2};

// Routing tensors are f32 where the model is bf16.
Var wide(const Var& x) { return x.dtype() == DType::bf16 ? ops::cast(x, DType::f32) : x; }

// f(n, e) for a (N, E) result.
Tensor table(int64_t rows, int64_t columns, const std::function<double(int64_t, int64_t)>& f) {
  return make({rows, columns}, [&](int64_t i) { return f(i / columns, i % columns); });
}
double at(const Tensor& x, int64_t n, int64_t e) { return x.data<double>()[n * x.dim(1) + e]; }

// ---- noise and scores

OP_TEST(jitter, {.inputs = {normal({5, 3})},
                 .f = [](const Vars& v) { return ops::jitter(v[0], 0.2, kKey, 11); },
                 .expect =
                     [](const Tensors& t) {
                       return make(t[0].shape(), [&](int64_t i) {
                         const auto id = static_cast<uint64_t>(11 * t[0].dim(1) + i);
                         return t[0].data<double>()[i] * (0.8 + 0.4 * random_uniform(kKey, id));
                       });
                     },
                 .also = {{normal({1, 1})}, {normal({0, 4})}, {normal({31, 33})}},
                 .rounding = Rounding::elementwise});

OP_TEST(sigmoid_rows, {.inputs = {normal({3, 5}, 2)},
                       .f = [](const Vars& v) { return ops::sigmoid_rows(v[0]); },
                       .expect =
                           [](const Tensors& t) {
                             return make(t[0].shape(), [&](int64_t i) {
                               return 1 / (1 + std::exp(-t[0].data<double>()[i]));
                             });
                           },
                       .also = {{normal({1, 1})}, {normal({0, 4})}, {normal({31, 33}, 4)}},
                       .loosen = 4,
                       .why = "1 - y from a y that was rounded to the dtype"});

OP_TEST(normalize_rows,
        {.inputs = {uniform({3, 5}, 0.1, 1)},
         .f = [](const Vars& v) { return ops::normalize_rows(v[0]); },
         .expect =
             [](const Tensors& t) {
               return table(t[0].dim(0), t[0].dim(1), [&](int64_t n, int64_t e) {
                 double sum = 0;
                 for (int64_t i = 0; i < t[0].dim(1); ++i) sum += at(t[0], n, i);
                 return at(t[0], n, e) / sum;
               });
             },
         .also = {{uniform({1, 1}, 0.5, 1)}, {uniform({0, 4}, 0, 1)}, {uniform({31, 33}, 0, 1)}}});

OP_TEST(take, {.inputs = {normal({4, 5}), int_values({2, 0, 1, 4, 3, 2, 0, 1}, {4, 2})},
               .f = [](const Vars& v) { return ops::take(v[0], v[1].value()); },
               .expect =
                   [](const Tensors& t) {
                     return table(t[1].dim(0), t[1].dim(1), [&](int64_t n, int64_t j) {
                       return at(t[0], n, t[1].data<int32_t>()[n * t[1].dim(1) + j]);
                     });
                   },
               .also = {{normal({1, 1}), int_values({0}, {1, 1})},
                        {normal({0, 3}), int_values({}, {0, 2})},
                        {normal({67, 31}), ids({67, 1}, 31)}},
               .rounding = Rounding::exact});

Tensor naive_keep(const Tensors& t, bool renormalize) {
  const auto kept = [&](int64_t n, int64_t j) {
    return t[1].data<int32_t>()[n * t[1].dim(1) + j] >= 0 ? at(t[0], n, j) : 0.0;
  };
  return table(t[0].dim(0), t[0].dim(1), [&](int64_t n, int64_t j) {
    double sum = 0;
    for (int64_t i = 0; i < t[0].dim(1); ++i) sum += kept(n, i);
    return renormalize ? kept(n, j) / std::max(sum, 0x1p-52) : kept(n, j);
  });
}

// Rows without a dropped choice, with one, with nothing left.
OP_TEST(keep_weights, {.inputs = {uniform({4, 3}, 0.1, 1),
                                  int_values({0, 1, 2, -1, 4, 5, 6, -1, -1, -1, -1, -1}, {4, 3})},
                       .f =
                           [](const Vars& v) {
                             const Var w =
                                 ops::scale(v[0], 1);  // so that the leaf gets one gradient
                             return Vars{ops::keep_weights(w, v[1].value(), true),
                                         ops::keep_weights(w, v[1].value(), false)};
                           },
                       .expect =
                           [](const Tensors& t) {
                             return Tensors{naive_keep(t, true), naive_keep(t, false)};
                           },
                       .also = {{uniform({2, 1}, 0.1, 1), int_values({0, -1}, {2, 1})},
                                {uniform({0, 2}, 0.1, 1), int_values({}, {0, 2})},
                                {uniform({257, 5}, 0.1, 1), ids({257, 5}, 3, -1)}}});

// ---- losses

Tensor naive_balance(const Tensor& p, const Tensor& expert, int64_t group, bool all) {
  const int64_t experts = p.dim(1), k = expert.dim(1), counted = all ? k : 1;
  const int64_t groups = p.dim(0) / group;
  double loss = 0;
  for (int64_t n = 0; n < p.dim(0); ++n) {
    for (int64_t m = n / group * group; m < (n / group + 1) * group; ++m) {
      for (int64_t j = 0; j < counted; ++j) loss += at(p, n, expert.data<int32_t>()[m * k + j]);
    }
  }
  loss *= static_cast<double>(experts) / static_cast<double>(group * group * counted * groups);
  return make({1}, [&](int64_t) { return loss; });
}

OP_TEST(balance_loss,
        {.inputs = {uniform({6, 5}, 0, 1), ids({6, 2}, 5)},
         .f =
             [](const Vars& v) {
               const Var p = ops::scale(v[0], 1);  // so that the leaf gets one gradient
               return Vars{ops::balance_loss(p, v[1].value(), p.dim(0) / 3, false),
                           ops::balance_loss(p, v[1].value(), p.dim(0), true)};
             },
         .expect =
             [](const Tensors& t) {
               return Tensors{naive_balance(t[0], t[1], t[0].dim(0) / 3, false),
                              naive_balance(t[0], t[1], t[0].dim(0), true)};
             },
         .also = {{uniform({3, 1}, 0, 1), int_values({0, 0, 0}, {3, 1})},
                  {uniform({9, 4}, 0, 1), int_values({1, 1, 1, 1, 1, 1, 1, 1, 1}, {9, 1})},
                  {uniform({1803, 7}, 0, 1), ids({1803, 3}, 7)}}});

OP_TEST(z_loss, {.inputs = {normal({4, 5}, 2)},
                 .f = [](const Vars& v) { return ops::z_loss(v[0]); },
                 .expect =
                     [](const Tensors& t) {
                       return make({1}, [&](int64_t) {
                         double total = 0;
                         for (int64_t n = 0; n < t[0].dim(0); ++n) {
                           double sum = 0;
                           for (int64_t e = 0; e < t[0].dim(1); ++e)
                             sum += std::exp(at(t[0], n, e));
                           total += std::log(sum) * std::log(sum);
                         }
                         return total / static_cast<double>(t[0].dim(0));
                       });
                     },
                 .also = {{normal({1, 1})}, {normal({131, 33}, 3)}},
                 .loosen = 4,
                 .why = "the square of a log-sum-exp rounded to the dtype"});

// ---- the fused router

// Two choices a token, losses over groups of a third of the rows.
Tensors naive_router(const Tensors& t) {
  const int64_t rows = t[0].dim(0), d = t[0].dim(1), experts = t[1].dim(0), k = 2;
  const Tensor p = table(rows, experts, [&](int64_t n, int64_t e) {
    double logit = 0;
    for (int64_t i = 0; i < d; ++i) logit += at(t[0], n, i) * at(t[1], e, i);
    return std::exp(logit);
  });
  Tensor expert({rows, k}, DType::i32);
  double z = 0;
  for (int64_t n = 0; n < rows; ++n) {
    double sum = 0;
    for (int64_t e = 0; e < experts; ++e) sum += at(p, n, e);
    z += std::log(sum) * std::log(sum) / static_cast<double>(rows);
    for (int64_t e = 0; e < experts; ++e) p.data<double>()[n * experts + e] /= sum;
    for (int64_t j = 0; j < k; ++j) {
      int64_t best = -1;
      for (int64_t e = 0; e < experts; ++e) {
        if (j == 1 && e == expert.data<int32_t>()[n * k]) continue;
        if (best < 0 || at(p, n, e) > at(p, n, best)) best = e;
      }
      expert.data<int32_t>()[n * k + j] = static_cast<int32_t>(best);
    }
  }
  const Tensor weight = table(
      rows, k, [&](int64_t n, int64_t j) { return at(p, n, expert.data<int32_t>()[n * k + j]); });
  return {t[0], weight, naive_balance(p, expert, rows / 3, true),
          make({1}, [&](int64_t) { return z; })};
}

OP_TEST(router,
        {.inputs = {normal({6, 3}), normal({5, 3})},
         .f =
             [](const Vars& v) {
               Tensor expert;
               return ops::router(
                   v[0], wide(v[1]),
                   {.top_k = 2, .group_rows = v[0].dim(0) / 3, .all_choices = true, .z_loss = true},
                   &expert);
             },
         .expect = naive_router,
         .also = {{normal({3, 1}), normal({2, 1})},
                  {normal({99, 33}, 0.3), normal({7, 33}, 0.3)},
                  {normal({129, 64}, 0.3), normal({40, 64}, 0.3)}},
         .rounding = Rounding::products});

// ---- segments

// Choices by token, -1 = dropped, sorted by expert then token: where each goes, and the offsets.
struct Sorted {
  Tensor row, offsets;  // (N, k), (E + 1)
};
Sorted sort_choices(const Tensor& choices, int64_t experts) {
  const Tensor expert = choices.to(kCpu);
  Sorted s{Tensor(expert.shape(), DType::i32), Tensor({experts + 1}, DType::i32)};
  int32_t next = 0;
  for (int32_t e = 0; e < experts; ++e) {
    s.offsets.data<int32_t>()[e] = next;
    for (int64_t i = 0; i < expert.numel(); ++i) {
      if (expert.data<int32_t>()[i] == e) s.row.data<int32_t>()[i] = next++;
    }
  }
  s.offsets.data<int32_t>()[experts] = next;
  for (int64_t i = 0; i < expert.numel(); ++i) {
    if (expert.data<int32_t>()[i] < 0) s.row.data<int32_t>()[i] = -1;
  }
  return {s.row.to(choices.device()), s.offsets.to(choices.device())};
}
// A weight of 1 for every choice.
Var ones(const Sorted& s, DType dtype) {
  return Var(Tensor::full(s.row.shape(), dtype, 1, s.row.device()));
}
int32_t choice(const Tensor& expert, int64_t n, int64_t j) {
  return expert.data<int32_t>()[n * expert.dim(1) + j];
}

constexpr int64_t kExperts = 4;
// Expert 2 without tokens, drops, a token with none left; all tokens with one expert; nobody kept.
const Input kMixed = int_values({0, 1, 3, 0, -1, 3, 1, -1, -1, -1}, {5, 2});
const Input kOne = int_values({1, 1, 1, 1, 1}, {5, 1});
const Input kNone = int_values({-1, -1, -1}, {3, 1});
const Input kMany = ids({131, 3}, kExperts, -1);

// Every row of the segments goes back to its tokens, so that no unowned row is compared.
OP_TEST(to_segments, {.inputs = {normal({5, 3}), kMixed},
                      .f =
                          [](const Vars& v) {
                            const Sorted s = sort_choices(v[1].value(), kExperts);
                            const Var one = ones(s, wide(v[0]).dtype());
                            return ops::from_segments(ops::to_segments(v[0], s.row), one, s.row);
                          },
                      .expect =
                          [](const Tensors& t) {
                            return table(t[0].dim(0), t[0].dim(1), [&](int64_t n, int64_t i) {
                              double y = 0;
                              for (int64_t j = 0; j < t[1].dim(1); ++j) {
                                if (choice(t[1], n, j) >= 0) y += at(t[0], n, i);
                              }
                              return y;
                            });
                          },
                      .also = {{normal({5, 1}), kOne},
                               {normal({3, 4}), kNone},
                               {normal({0, 4}), int_values({}, {0, 2})},
                               {normal({131, 33}), kMany}}});

OP_TEST(from_segments, {.inputs = {normal({10, 3}), normal({5, 2}), kMixed},
                        .f =
                            [](const Vars& v) {
                              // The result of to_segments stands in for outputs of experts: what no
                              // choice owns is NaN. A row's token is the first that owns it.
                              const Sorted s = sort_choices(v[2].value(), kExperts);
                              const Shape flat{s.row.numel(), 1};
                              const Var rows = ops::to_segments(v[0], s.row.reshape(flat));
                              return ops::from_segments(rows, wide(v[1]), s.row);
                            },
                        .expect =
                            [](const Tensors& t) {
                              const int64_t k = t[2].dim(1);
                              return table(t[2].dim(0), t[0].dim(1), [&](int64_t n, int64_t i) {
                                double y = 0;
                                for (int64_t j = 0; j < k; ++j) {
                                  if (choice(t[2], n, j) >= 0)
                                    y += at(t[1], n, j) * at(t[0], n * k + j, i);
                                }
                                return y;
                              });
                            },
                        .also = {{normal({5, 1}), normal({5, 1}), kOne},
                                 {normal({3, 4}), normal({3, 1}), kNone},
                                 {normal({0, 4}), normal({0, 2}), int_values({}, {0, 2})},
                                 {normal({5, 3}), constant(normal({5, 1})), kOne},
                                 {normal({393, 33}), normal({131, 3}), kMany}}});

OP_TEST(from_segments_add,
        {.inputs = {normal({10, 3}), normal({5, 2}), kMixed, normal({5, 3})},
         .f =
             [](const Vars& v) {
               const Sorted s = sort_choices(v[2].value(), kExperts);
               const Shape flat{s.row.numel(), 1};
               const Var rows = ops::to_segments(v[0], s.row.reshape(flat));
               return ops::from_segments_add(rows, wide(v[1]), s.row, v[3]);
             },
         .expect =
             [](const Tensors& t) {
               const int64_t k = t[2].dim(1);
               return table(t[2].dim(0), t[0].dim(1), [&](int64_t n, int64_t i) {
                 double y = at(t[3], n, i);
                 for (int64_t j = 0; j < k; ++j) {
                   if (choice(t[2], n, j) >= 0) y += at(t[1], n, j) * at(t[0], n * k + j, i);
                 }
                 return y;
               });
             },
         .also = {{normal({5, 1}), normal({5, 1}), kOne, normal({5, 1})},
                  {normal({3, 4}), normal({3, 1}), kNone, normal({3, 4})},
                  {normal({393, 33}), normal({131, 3}), kMany, normal({131, 33})}}});

// x -> segments -> grouped product -> tokens.   x (N, K), w (E, M, K), bias (E, M), choices (N, k)
Var through_experts(const Vars& v, bool gelu, bool with_bias) {
  const Sorted s = sort_choices(v[3].value(), kExperts);
  const Var x = ops::to_segments(v[0], s.row), bias = with_bias ? v[2] : Var();
  const Var y = gelu ? ops::grouped_linear_gelu(x, s.offsets, v[1], bias)
                     : ops::grouped_linear(x, s.offsets, v[1], bias);
  return ops::from_segments(y, ones(s, wide(v[0]).dtype()), s.row);
}

Tensor naive_experts(const Tensors& t, bool gelu, bool with_bias) {
  const int64_t m = t[1].dim(1), d = t[1].dim(2);
  return table(t[0].dim(0), m, [&](int64_t n, int64_t o) {
    double y = 0;
    for (int64_t j = 0; j < t[3].dim(1); ++j) {
      const int32_t e = choice(t[3], n, j);
      if (e < 0) continue;
      double a = with_bias ? at(t[2], e, o) : 0.0;
      for (int64_t i = 0; i < d; ++i)
        a += at(t[0], n, i) * t[1].data<double>()[(e * m + o) * d + i];
      const double u = std::sqrt(2 / 3.14159265358979323846) * (a + 0.044715 * a * a * a);
      y += gelu ? 0.5 * a * (1 + std::tanh(u)) : a;
    }
    return y;
  });
}

const std::vector<Inputs> kExpertSizes = {
    {normal({5, 3}), normal({kExperts, 4, 3}), normal({kExperts, 4}), kOne},
    {normal({3, 2}), normal({kExperts, 3, 2}), normal({kExperts, 3}), kNone},
    {normal({5, 1}), normal({kExperts, 1, 1}), normal({kExperts, 1}), kMixed},
    {constant(normal({5, 3})), normal({kExperts, 4, 3}), normal({kExperts, 4}), kMixed},
    {normal({5, 3}), constant(normal({kExperts, 4, 3})), constant(normal({kExperts, 4})), kMixed},
    {normal({5, 3}), normal({kExperts, 4, 3}), constant(normal({kExperts, 4})), kMixed},
    {normal({131, 33}), normal({kExperts, 17, 33}), normal({kExperts, 17}), kMany}};

OpRow expert_row(bool gelu, bool with_bias) {
  return {.inputs = {normal({5, 3}), normal({kExperts, 4, 3}), normal({kExperts, 4}), kMixed},
          .f = [=](const Vars& v) { return through_experts(v, gelu, with_bias); },
          .expect = [=](const Tensors& t) { return naive_experts(t, gelu, with_bias); },
          .also = kExpertSizes,
          .rounding = Rounding::products};
}

OP_TEST(grouped_linear, expert_row(false, true));
OP_TEST(grouped_linear_gelu, expert_row(true, true));

// x -> segments -> up, GELU, down -> tokens.   up (E, F, K), down (E, M, F), choices (N, k)
Var through_mlp(const Vars& v, bool with_bias) {
  const Sorted s = sort_choices(v[5].value(), kExperts);
  const Var x = ops::to_segments(v[0], s.row);
  const Var y = ops::grouped_mlp(x, s.offsets, v[1], with_bias ? v[2] : Var(), v[3],
                                 with_bias ? v[4] : Var());
  return ops::from_segments(y, ones(s, wide(v[0]).dtype()), s.row);
}

Tensor naive_mlp(const Tensors& t, bool with_bias) {
  const int64_t hidden = t[1].dim(1), m = t[3].dim(1);
  const int64_t k = t[5].dim(1);
  // Each choice is a token of its own for the first product; the second one adds them up.
  Tensor each = make({t[0].dim(0) * k, t[0].dim(1)},
                     [&](int64_t i) { return at(t[0], i / t[0].dim(1) / k, i % t[0].dim(1)); });
  const Tensor choices = t[5].reshape({t[5].numel(), 1});
  const Tensor a = naive_experts({each, t[1], t[2], choices}, true, with_bias);  // (N k, F)
  return table(t[0].dim(0), m, [&](int64_t n, int64_t o) {
    double y = 0;
    for (int64_t j = 0; j < k; ++j) {
      const int32_t e = choice(t[5], n, j);
      if (e < 0) continue;
      if (with_bias) y += at(t[4], e, o);
      for (int64_t i = 0; i < hidden; ++i) {
        y += at(a, n * k + j, i) * t[3].data<double>()[(e * m + o) * hidden + i];
      }
    }
    return y;
  });
}

Inputs mlp_inputs(int64_t rows, int64_t in, int64_t hidden, int64_t out, Input choices) {
  return {normal({rows, in}, 0.5),    normal({kExperts, hidden, in}, 0.5),
          normal({kExperts, hidden}), normal({kExperts, out, hidden}, 0.5),
          normal({kExperts, out}),    std::move(choices)};
}

OpRow mlp_row(bool with_bias) {
  return {.inputs = mlp_inputs(5, 3, 4, 2, kMixed),
          .f = [=](const Vars& v) { return through_mlp(v, with_bias); },
          .expect = [=](const Tensors& t) { return naive_mlp(t, with_bias); },
          .also = {mlp_inputs(5, 3, 4, 2, kOne), mlp_inputs(3, 2, 3, 2, kNone),
                   mlp_inputs(5, 1, 1, 1, kMixed), mlp_inputs(131, 33, 17, 9, kMany)},
          .rounding = Rounding::products,
          .loosen = 2,
          .why = "the first product's rounding passes through gelu and a second product"};
}

OP_TEST(grouped_mlp, mlp_row(true));

TEST(GroupedMlp, WorksWithoutBiases) {
  for (const std::string& problem : check_op(mlp_row(false))) ADD_FAILURE() << problem;
}

TEST(GroupedLinear, WorksWithoutABias) {
  for (bool gelu : {false, true}) {
    for (const std::string& problem : check_op(expert_row(gelu, false))) ADD_FAILURE() << problem;
  }
}

TEST(FromSegments, WantsAWeightForEachChoice) {
  const Var x(Tensor::zeros({4, 3}, DType::f64)), few(Tensor::zeros({1, 2}, DType::f64));
  const Tensor row = Tensor::from(std::vector<int32_t>{0, 1, 2, 3}, {2, 2});
  const Var residual(Tensor::zeros({2, 3}, DType::f64));
  EXPECT_THROW(ops::from_segments(x, few, row), Error);
  EXPECT_THROW(ops::from_segments_add(x, few, row, residual), Error);
}

TEST(GroupedLinear, AnExpertWithoutTokensGetsAGradientOfZero) {
  const Var x(normal({5, 3}).make(1), true), w(normal({kExperts, 4, 3}).make(2), true);
  const Var bias(normal({kExperts, 4}).make(3), true);
  const Var y = through_experts({x, w, bias, Var(kMixed.make(0))}, true, true);
  backward(y, normal({5, 4}).make(4));
  for (double g : w.grad().rows(2, 3).to_vector()) EXPECT_EQ(g, 0);
  for (double g : bias.grad().rows(2, 3).to_vector()) EXPECT_EQ(g, 0);
  for (double g : x.grad().rows(4, 5).to_vector()) EXPECT_EQ(g, 0);  // dropped everywhere
}

// ---- the one-hot form: choices hold slots of 6 here

OP_TEST(einsum_dispatch,
        {.inputs = {normal({4, 3}), int_values({0, 5, 2, -1, -1, -1, 1, 3}, {4, 2})},
         .f = [](const Vars& v) { return ops::einsum_dispatch(v[0], v[1].value(), 6); },
         .expect =
             [](const Tensors& t) {
               return table(6, t[0].dim(1), [&](int64_t slot, int64_t i) {
                 double y = 0;
                 for (int64_t n = 0; n < t[0].dim(0); ++n) {
                   for (int64_t j = 0; j < t[1].dim(1); ++j) {
                     if (choice(t[1], n, j) == slot) y += at(t[0], n, i);
                   }
                 }
                 return y;
               });
             },
         .also = {{normal({1, 1}), int_values({4}, {1, 1})},
                  {normal({3, 2}), int_values({-1, -1, -1}, {3, 1})}},
         .rounding = Rounding::products});

OP_TEST(einsum_combine,
        {.inputs = {normal({6, 3}), normal({4, 2}),
                    int_values({0, 5, 2, -1, -1, -1, 1, 3}, {4, 2})},
         .f = [](const Vars& v) { return ops::einsum_combine(v[0], wide(v[1]), v[2].value()); },
         .expect =
             [](const Tensors& t) {
               return table(t[1].dim(0), t[0].dim(1), [&](int64_t n, int64_t i) {
                 double y = 0;
                 for (int64_t j = 0; j < t[1].dim(1); ++j) {
                   if (choice(t[2], n, j) >= 0)
                     y += at(t[1], n, j) * at(t[0], choice(t[2], n, j), i);
                 }
                 return y;
               });
             },
         .also = {{normal({6, 1}), normal({1, 1}), int_values({4}, {1, 1})},
                  {normal({6, 2}), normal({3, 1}), int_values({-1, -1, -1}, {3, 1})}},
         .rounding = Rounding::products});

// ---- residual MoE

OP_TEST(mix, {.inputs = {normal({3, 5}), normal({3, 5}), uniform({3, 2}, 0, 1)},
              .f = [](const Vars& v) { return ops::mix(v[0], v[1], v[2]); },
              .expect =
                  [](const Tensors& t) {
                    return table(t[0].dim(0), t[0].dim(1), [&](int64_t n, int64_t i) {
                      return at(t[2], n, 0) * at(t[0], n, i) + at(t[2], n, 1) * at(t[1], n, i);
                    });
                  },
              .also = {{normal({1, 1}), normal({1, 1}), normal({1, 2})},
                       {normal({0, 4}), normal({0, 4}), normal({0, 2})},
                       {normal({31, 33}), normal({31, 33}), normal({31, 2})}}});

}  // namespace
}  // namespace pyramoe::optest
