// Rows of the losses.
#include <cmath>

#include "core/kernels/loss.h"
#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

// log(softmax(x / t)) of row n, entry j.
double log_probability(const Tensor& x, int64_t n, int64_t j, double t) {
  const int64_t v = x.dim(1);
  const double* row = x.data<double>() + n * v;
  double sum = 0;
  for (int64_t i = 0; i < v; ++i) sum += std::exp((row[i] - row[j]) / t);
  return -std::log(sum);
}

Tensor naive_cross_entropy(const Tensor& logits, const Tensor& target) {
  double sum = 0;
  for (int64_t n = 0; n < logits.dim(0); ++n) {
    const int32_t hit = target.data<int32_t>()[n];
    if (hit >= 0) sum -= log_probability(logits, n, hit, 1);
  }
  return make({1}, [&](int64_t) { return sum / static_cast<double>(logits.dim(0)); });
}

OP_TEST(cross_entropy, {.inputs = {normal({3, 5}), ids({3}, 5)},
                        .f = [](const Vars& v) { return ops::cross_entropy(v[0], v[1].value()); },
                        .expect = [](const Tensors& t) { return naive_cross_entropy(t[0], t[1]); },
                        .also = {{normal({2, 1}), ids({2}, 1)},
                                 {normal({4, 5}), int_values({-1, 2, -100, 4}, {4})},
                                 {normal({2, 5}), int_values({-1, -1}, {2})},
                                 {normal({31, 33}, 3), ids({31}, 33)},
                                 {normal({9, 1025}, 2), ids({9}, 1025)}}});

OP_TEST(
    cross_entropy_in_place,
    {.inputs = {normal({3, 5}), ids({3}, 5)},
     .f = [](const Vars& v) { return ops::cross_entropy(ops::scale(v[0], 1), v[1].value(), true); },
     .expect = [](const Tensors& t) { return naive_cross_entropy(t[0], t[1]); },
     .also = {{normal({31, 33}, 3), int_values(std::vector<int32_t>(31, 32), {31})},
              {normal({9, 1025}, 2), ids({9}, 1025, -300)}}});

// (N, D), (V, D), (N) -> mean cross-entropy of x w^T.
Expected expect_head_loss(const Tensors& t) {
  const int64_t n = t[0].dim(0), d = t[0].dim(1), v = t[1].dim(0);
  const Tensor logits = make({n, v}, [&](int64_t i) {
    double sum = 0;
    for (int64_t k = 0; k < d; ++k) {
      sum += t[0].data<double>()[i / v * d + k] * t[1].data<double>()[i % v * d + k];
    }
    return sum;
  });
  return naive_cross_entropy(logits, t[2]);
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

const std::function<Outputs(const Vars&)> distill = [](const Vars& v) {
  return ops::distill_loss(v[0], v[1].value(), 2.5);
};
const std::function<Expected(const Tensors&)> expect_distill = [](const Tensors& t) {
  double sum = 0;
  for (int64_t n = 0; n < t[0].dim(0); ++n) {
    for (int64_t j = 0; j < t[0].dim(1); ++j) {
      const double teacher = log_probability(t[1], n, j, 2.5);
      sum += std::exp(teacher) * (teacher - log_probability(t[0], n, j, 2.5));
    }
  }
  return make({1}, [&](int64_t) { return 2.5 * 2.5 * sum / static_cast<double>(t[0].dim(0)); });
};

OP_TEST(distill_loss_of_one_word, {.inputs = {normal({2, 1}), constant(normal({2, 1}))},
                                   .f = distill,
                                   .expect = expect_distill,
                                   .why = "the loss is 0: a difference of equal numbers",
                                   .narrow = false});

OP_TEST(distill_loss, {.inputs = {normal({3, 5}), constant(normal({3, 5}))},
                       .f = distill,
                       .expect = expect_distill,
                       .also = {{normal({31, 33}, 2), constant(normal({31, 33}, 2))},
                                {normal({5, 1025}), constant(normal({5, 1025}))}}});

TEST(CrossEntropy, ReusesTheLogitsMemory) {
  const Var x(normal({3, 5}).make(1), true);
  const Var logits = ops::scale(x, 1);
  const Tensor before = logits.value().clone();
  backward(ops::cross_entropy(logits, Tensor::zeros({3}, DType::i32), true),
           Tensor::scalar(1, DType::f64));
  EXPECT_NE(logits.value().to_vector(), before.to_vector());
  EXPECT_EQ(logits.value().to_vector(), x.grad().to_vector());
}

TEST(CrossEntropy, NamesATargetOutsideTheVocabulary) {
  const Var logits(Tensor::zeros({2, 5}, DType::f32));
  try {
    ops::cross_entropy(logits, Tensor::from(std::vector<int32_t>{1, 5}, {2}));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::data);
    EXPECT_NE(std::string(error.what()).find("target 5 at place 1"), std::string::npos);
  }
}

TEST(CrossEntropy, OfEqualLogitsIsTheLogOfTheVocabulary) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Var logits(Tensor::full({4, 50257}, dtype, 1.5));
    const Tensor target = Tensor::zeros({4}, DType::i32);
    EXPECT_NEAR(ops::cross_entropy(logits, target).value().item(), std::log(50257.0), 1e-5);
  }
}

TEST(DistillLoss, IsZeroForEqualLogits) {
  const Tensor teacher = normal({7, 133}, 3).make(2);
  const Var student(teacher.clone(), true);
  const Var loss = ops::distill_loss(student, teacher, 2);
  EXPECT_EQ(loss.value().item(), 0);
  backward(loss, Tensor::scalar(1, DType::f64));
  for (double g : student.grad().to_vector()) EXPECT_EQ(g, 0);
}

}  // namespace
}  // namespace pyramoe::optest
