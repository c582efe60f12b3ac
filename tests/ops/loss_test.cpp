// Rows of the losses of logits.
#include "core/kernels/loss.h"
#include "tests/ops/naive_loss.h"

namespace pyramoe::optest {
namespace {

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

const std::function<Outputs(const Vars&)> distill = [](const Vars& v) {
  return ops::distill_loss(v[0], v[1].value(), 2.5);
};
const std::function<Expected(const Tensors&)> expect_distill = [](const Tensors& t) {
  return naive_distill(t[0], t[1], 2.5);
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
