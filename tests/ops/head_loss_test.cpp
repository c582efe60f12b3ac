// Rows of the losses that are one op with the head's product, without and with a teacher.
#include "tests/ops/naive_loss.h"

namespace pyramoe::optest {
namespace {

// (N, D), (V, D), (N) -> mean cross-entropy of x w^T.
Expected expect_head_loss(const Tensors& t) {
  return naive_cross_entropy(naive_head(t[0], t[1]), t[2]);
}
std::function<Outputs(const Vars&)> head_loss(int64_t chunk) {
  return [chunk](const Vars& v) { return ops::head_loss(v[0], v[1], v[2].value(), chunk); };
}

OP_TEST(head_loss, {.inputs = {normal({3, 4}), normal({5, 4}), ids({3}, 5)},
                    .f = head_loss(0),
                    .expect = expect_head_loss,
                    .also = {{normal({1, 1}), normal({1, 1}), ids({1}, 1)},
                             {normal({4, 3}), normal({5, 3}), int_values({-1, 2, -100, 4}, {4})},
                             {normal({3, 4}), constant(normal({5, 4})), ids({3}, 5)},
                             {constant(normal({3, 4})), normal({5, 4}), ids({3}, 5)},
                             {normal({9, 33}, 0.3), normal({129, 33}), ids({9}, 129)}},
                    .rounding = Rounding::products});

OP_TEST(head_loss_in_chunks,
        {.inputs = {normal({5, 4}), normal({7, 4}), ids({5}, 7)},
         .f = head_loss(2),
         .expect = expect_head_loss,
         .also = {{normal({4, 3}), normal({5, 3}), int_values({-1, 2, -100, 4}, {4})},
                  {normal({3, 4}), constant(normal({5, 4})), ids({3}, 5)},
                  {constant(normal({3, 4})), normal({5, 4}), ids({3}, 5)},
                  {normal({9, 33}, 0.3), normal({129, 33}), ids({9}, 129)}},
         .rounding = Rounding::products});

TEST(HeadLoss, EqualsHeadThenLoss) {
  const Tensor x = normal({7, 12}).make(1), w = normal({31, 12}).make(2);
  const Tensor target = ids({7}, 31, -3).make(3), seed = Tensor::scalar(0.37, DType::f64);
  const Var px(x.clone(), true), pw(w.clone(), true);
  const Var plain = ops::cross_entropy(ops::linear(px, pw, Var()), target);
  backward(plain, seed);
  for (int64_t chunk : {0, 1, 3, 7, 100}) {
    const Var hx(x.clone(), true), hw(w.clone(), true);
    const Var fused = ops::head_loss(hx, hw, target, chunk);
    EXPECT_NEAR(fused.value().item(), plain.value().item(), 1e-14);
    backward(fused, seed);
    for (const auto& [a, b] : {std::pair{px, hx}, std::pair{pw, hw}}) {
      const std::vector<double> want = a.grad().to_vector(), got = b.grad().to_vector();
      for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(want[i], got[i], 1e-15) << chunk;
    }
    const NoGrad no_grad;
    EXPECT_EQ(ops::head_loss(hx, hw, target, chunk).value().item(), fused.value().item());
  }
}

// Student's (N, D), (V, D), targets (N), teacher's (N, D'), (V, D'), shares (2).
std::function<Outputs(const Vars&)> head_distill(double temperature, int64_t chunk) {
  return [=](const Vars& v) -> Outputs {
    const ops::Teacher teacher{v[3].value(), v[4].value(), temperature, v[5].value()};
    return ops::head_distill_loss(v[0], v[1], v[2].value(), teacher, chunk)[0];
  };
}
std::function<Expected(const Tensors&)> expect_head_distill(double temperature) {
  return [=](const Tensors& t) -> Expected {
    const Tensor student = naive_head(t[0], t[1]), teacher = naive_head(t[3], t[4]);
    const double ce = naive_cross_entropy(student, t[2]).item();
    const double kd = naive_distill(student, teacher, temperature).item();
    return make({1},
                [&](int64_t) { return t[5].data<double>()[0] * ce + t[5].data<double>()[1] * kd; });
  };
}
// Logits of size 1 or so: bf16 rounds larger ones by more than what both softmaxes differ in.
Inputs with_teacher(Input x, Input w, Input target, Shape tx, Shape tw, double ce, double kd) {
  return {std::move(x),         std::move(w),        std::move(target), constant(normal(tx, 0.2)),
          constant(normal(tw)), f64_values({ce, kd})};
}

OP_TEST(head_distill_loss,
        {.inputs = with_teacher(normal({3, 4}), normal({5, 4}), ids({3}, 5), {3, 2}, {5, 2}, 1,
                                0.7),
         .f = head_distill(2.5, 0),
         .expect = expect_head_distill(2.5),
         .also = {with_teacher(normal({4, 3}), normal({5, 3}), int_values({-1, 2, -100, 4}, {4}),
                               {4, 6}, {5, 6}, 0.5, 2),
                  with_teacher(normal({3, 4}), constant(normal({5, 4})), ids({3}, 5), {3, 4},
                               {5, 4}, 1, 1),
                  with_teacher(constant(normal({3, 4})), normal({5, 4}), ids({3}, 5), {3, 4},
                               {5, 4}, 0, 1),
                  with_teacher(normal({9, 33}, 0.1), normal({129, 33}), ids({9}, 129), {9, 17},
                               {129, 17}, 1, 1)},
         .rounding = Rounding::products});

OP_TEST(head_distill_loss_in_chunks,
        {.inputs = with_teacher(normal({5, 4}), normal({7, 4}), ids({5}, 7), {5, 3}, {7, 3}, 1,
                                0.7),
         .f = head_distill(1, 2),
         .expect = expect_head_distill(1),
         .also = {with_teacher(normal({9, 33}, 0.1), normal({129, 33}), ids({9}, 129, -20), {9, 17},
                               {129, 17}, 0, 1)},
         .rounding = Rounding::products});

// Features and heads of a student and a teacher, targets of which some are ignored.
struct Pair {
  Tensor x = normal({7, 12}).make(1), w = normal({31, 12}).make(2);
  Tensor tx = normal({7, 9}).make(3), tw = normal({31, 9}).make(4);
  Tensor target = ids({7}, 31, -9).make(5), seed = Tensor::scalar(0.37, DType::f64);
};

TEST(HeadDistillLoss, EqualsTheLossesOfLogits) {
  const Pair p;
  for (const double temperature : {1.0, 2.0, 0.7}) {
    for (const auto& [ce, kd] : {std::pair{1.0, 0.3}, std::pair{1.0, 0.0}, std::pair{0.0, 1.0}}) {
      const Tensor share = Tensor::from(std::vector<double>{ce, kd}, {2});
      const Var px(p.x.clone(), true), pw(p.w.clone(), true);
      const Var logits = ops::linear(px, pw, Var());
      const Tensor taught = ops::linear(Var(p.tx), Var(p.tw), Var()).value();
      const Vars parts{ops::cross_entropy(logits, p.target),
                       ops::distill_loss(logits, taught, temperature)};
      const Var plain = ops::weighted_sum(parts, share);
      backward(plain, p.seed);
      for (const int64_t chunk : {0, 1, 3, 100}) {
        const Var hx(p.x.clone(), true), hw(p.w.clone(), true);
        const Vars fused =
            ops::head_distill_loss(hx, hw, p.target, {p.tx, p.tw, temperature, share}, chunk);
        EXPECT_NEAR(fused[0].value().item(), plain.value().item(), 1e-13);
        EXPECT_NEAR(fused[1].value().item(), parts[0].value().item(), 1e-13);
        EXPECT_NEAR(fused[2].value().item(), parts[1].value().item(), 1e-13);
        backward(fused[0], p.seed);
        for (const auto& [a, b] : {std::pair{px, hx}, std::pair{pw, hw}}) {
          const std::vector<double> want = a.grad().to_vector(), got = b.grad().to_vector();
          for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(want[i], got[i], 1e-14) << chunk;
        }
      }
    }
  }
}

// More rows than a teacher's logits exist of at a time.
TEST(HeadDistillLoss, OfManyRowsAsksTheTeacherInTurns) {
  const int64_t n = 20001;
  const Tensor x = normal({n, 2}).make(1), w = normal({3, 2}).make(2), tx = normal({n, 2}).make(3),
               tw = normal({3, 2}).make(4), target = ids({n}, 3).make(5);
  const Tensor share = Tensor::from(std::vector<double>{1, 1}, {2});
  const Tensor seed = Tensor::scalar(1, DType::f64);
  const Var px(x.clone(), true), hx(x.clone(), true), hw(w);
  const Var logits = ops::linear(px, hw, Var());
  const Tensor taught = ops::linear(Var(tx), Var(tw), Var()).value();
  const Vars parts{ops::cross_entropy(logits, target), ops::distill_loss(logits, taught, 2)};
  backward(ops::weighted_sum(parts, share), seed);
  const Vars fused = ops::head_distill_loss(hx, hw, target, {tx, tw, 2, share});
  EXPECT_NEAR(fused[1].value().item(), parts[0].value().item(), 1e-12);
  EXPECT_NEAR(fused[2].value().item(), parts[1].value().item(), 1e-12);
  backward(fused[0], seed);
  const std::vector<double> want = px.grad().to_vector(), got = hx.grad().to_vector();
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(want[i], got[i], 1e-16) << i;
}

TEST(HeadDistillLoss, OfATeacherThatIsTheStudentIsZero) {
  const Pair p;
  for (const double temperature : {1.0, 2.0}) {
    const Var x(p.x.clone(), true), w(p.w.clone(), true);
    const Tensor share = Tensor::from(std::vector<double>{0, 1}, {2});
    const Vars y = ops::head_distill_loss(x, w, p.target, {p.x, p.w, temperature, share});
    EXPECT_EQ(y[0].value().item(), 0);
    EXPECT_EQ(y[2].value().item(), 0);
    EXPECT_GT(y[1].value().item(), 0);
    backward(y[0], p.seed);
    for (const double g : x.grad().to_vector()) EXPECT_EQ(g, 0);
    for (const double g : w.grad().to_vector()) EXPECT_EQ(g, 0);
  }
}

TEST(HeadDistillLoss, WithoutGradientsGivesTheSameLosses) {
  const Pair p;
  const Var x(p.x.clone(), true), w(p.w.clone(), true);
  const ops::Teacher teacher{p.tx, p.tw, 2, Tensor::from(std::vector<double>{1, 1}, {2})};
  const Vars y = ops::head_distill_loss(x, w, p.target, teacher);
  const NoGrad no_grad;
  const Vars again = ops::head_distill_loss(x, w, p.target, teacher, 3);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(y[i].value().item(), again[i].value().item());
}

TEST(HeadDistillLoss, SaysWhatDoesNotFit) {
  const Pair p;
  const Tensor other = normal({30, 9}).make(4),
               share = Tensor::from(std::vector<double>{1, 1}, {2});
  try {
    ops::head_distill_loss(Var(p.x), Var(p.w), p.target, {p.tx, other, 2, share});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("V = 31"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace pyramoe::optest
