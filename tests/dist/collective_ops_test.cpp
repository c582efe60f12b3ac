// Gradients of the differentiable collectives. A loss is a weighted sum over what each op returns;
// its gradient is known from who holds what.
#include "dist/collective_ops.h"

#include "autograd/ops.h"
#include "tests/dist/world.h"

namespace pyramoe {
namespace {

using dist::Counts;
using test::random_tensor;
using test::world;

int me() { return world().rank(); }
int ranks() { return world().size(); }

Var leaf(const Tensor& x) { return Var(x.clone(), true); }

void expect_equal(const Tensor& a, const Tensor& b, double tolerance = 0) {
  ASSERT_EQ(a.shape(), b.shape());
  for (int64_t i = 0; i < a.numel(); ++i) {
    ASSERT_NEAR(a.data<double>()[i], b.data<double>()[i], tolerance) << "element " << i;
  }
}

Tensor sum_over_ranks(Shape shape, uint64_t seed) {
  Tensor sum = Tensor::zeros(shape, DType::f64);
  for (int r = 0; r < ranks(); ++r) {
    const Tensor x = random_tensor(shape, DType::f64, seed, r);
    for (int64_t i = 0; i < sum.numel(); ++i) sum.data<double>()[i] += x.data<double>()[i];
  }
  return sum;
}

TEST(CollectiveOps, CopyAndSumAreEachOthersGradient) {
  const Shape shape{3, 4};
  const Tensor dy = random_tensor(shape, DType::f64, 1, me());
  const Var x = leaf(random_tensor(shape, DType::f64, 2, 0));
  const Var y = dist::copy_to(x, world());
  expect_equal(y.value(), x.value());
  backward(ops::scale(y, 1), dy);
  expect_equal(x.grad(), sum_over_ranks(shape, 1), 1e-13);

  const Var u = leaf(random_tensor(shape, DType::f64, 3, me()));
  const Var v = dist::sum_from(u, world());
  expect_equal(v.value(), sum_over_ranks(shape, 3), 1e-13);
  const Tensor same = random_tensor(shape, DType::f64, 4, 0);
  backward(ops::scale(v, 1), same);
  expect_equal(u.grad(), same);
}

TEST(CollectiveOps, SliceAndGatherUndoEachOther) {
  for (const int axis : {0, 1}) {
    const Shape whole{2 * ranks(), 3 * ranks()};
    const Tensor same = random_tensor(whole, DType::f64, 5, 0);
    const Var x = leaf(same);
    const Var y = dist::gather_from(dist::slice_to(x, world(), axis), world(), axis);
    expect_equal(y.value(), same);
    const Tensor dy = random_tensor(whole, DType::f64, 6, 0);
    backward(ops::scale(y, 1), dy);
    expect_equal(x.grad(), dy);
  }
}

TEST(CollectiveOps, RowsTravelAndTheirGradientsComeHome) {
  Counts send, recv;
  int64_t out = 0, in = 0;
  const auto rows = [](int a, int b) { return int64_t{(a + 2 * b) % 3}; };
  for (int r = 0; r < ranks(); ++r) {
    send.push_back(rows(me(), r)), out += send.back();
    recv.push_back(rows(r, me())), in += recv.back();
  }
  const Var x = leaf(random_tensor({out, 4}, DType::f64, 8, me()));
  const dist::PendingRows pending = dist::start_all_to_all(x, send, recv, world());
  const Var away = dist::wait(pending);
  ASSERT_EQ(away.dim(0), in);
  // There and back again is the identity, for values and gradients.
  const Var home = dist::all_to_all(ops::scale(away, 2), recv, send, world());
  expect_equal(home.value(), ops::scale(Var(x.value()), 2).value());
  const Tensor dy = random_tensor({out, 4}, DType::f64, 9, me());
  if (!home.requires_grad()) return;
  backward(home, dy);
  expect_equal(x.grad(), ops::scale(Var(dy), 2).value());
}

TEST(CollectiveOps, GatheredRowsSumTheGradientsOfTheirParts) {
  Counts counts;
  int64_t total = 0;
  for (int r = 0; r < ranks(); ++r) counts.push_back(1 + r % 3), total += counts.back();
  const int64_t mine = counts[static_cast<size_t>(me())];
  const Var x = leaf(random_tensor({mine, 2}, DType::f64, 11, me()));
  const Var all = dist::gather_rows(x, counts, world());
  // Each rank does its part of the work: multiplies by rank + 1. The sum over ranks comes home.
  const Var y = dist::sum_to_rows(ops::scale(all, me() + 1), counts, world());
  const double factor = ranks() * (ranks() + 1) / 2.0;
  expect_equal(y.value(), ops::scale(Var(x.value()), factor).value(), 1e-12);
  const Tensor dy = random_tensor({mine, 2}, DType::f64, 12, me());
  backward(y, dy);
  expect_equal(x.grad(), ops::scale(Var(dy), factor).value(), 1e-12);
  EXPECT_EQ(total, all.dim(0));
}

TEST(CollectiveOps, BiasOnEveryRow) {
  const Var x = leaf(random_tensor({3, 4}, DType::f64, 13, 0));
  const Var bias = leaf(random_tensor({4}, DType::f64, 14, 0));
  const Var y = dist::add_bias(x, bias);
  for (int64_t i = 0; i < 12; ++i) {
    EXPECT_EQ(y.value().data<double>()[i],
              x.value().data<double>()[i] + bias.value().data<double>()[i % 4]);
  }
  const Tensor dy = random_tensor({3, 4}, DType::f64, 15, 0);
  backward(y, dy);
  expect_equal(x.grad(), dy);
  for (int64_t j = 0; j < 4; ++j) {
    double sum = 0;
    for (int64_t i = 0; i < 3; ++i) sum += dy.data<double>()[i * 4 + j];
    EXPECT_NEAR(bias.grad().data<double>()[j], sum, 1e-14);
  }
}

}  // namespace
}  // namespace pyramoe
