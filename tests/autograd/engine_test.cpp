// What backward promises: sums of gradients, places, order, and that graphs do not leak.
#include <gtest/gtest.h>

#include "autograd/ops.h"
#include "autograd/var.h"

namespace pyramoe {
namespace {

Tensor tensor(std::vector<double> values) {
  const auto n = static_cast<int64_t>(values.size());
  return Tensor::from(values, {n});
}
Tensor ones(int64_t n) { return Tensor::full({n}, DType::f64, 1); }
std::vector<double> grad(const Var& x) { return x.grad().to_vector(); }
using Numbers = std::vector<double>;

TEST(Backward, AddsTheGradientsOfAValueUsedTwice) {
  const Var x(tensor({1, 2, 3}), true);
  const Var y = ops::scale(x, 2);
  backward(ops::add(ops::multiply(y, y), y), ones(3));  // 4x^2 + 2x
  EXPECT_EQ(grad(x), (Numbers{10, 18, 26}));
}

TEST(Backward, AddsTheGradientsOfManyUses) {
  const Var x(tensor({1, -1}), true);
  const Var y = ops::scale(x, 1);
  Var sum = y;
  for (int i = 0; i < 5; ++i) sum = ops::add(sum, y);
  backward(sum, ones(2));
  EXPECT_EQ(grad(x), (Numbers{6, 6}));
}

TEST(Backward, TakesALeafTwiceInOneOp) {
  const Var x(tensor({3, -5}), true);
  const Tensor place({2}, DType::f64);
  x.place_grad(place);
  backward(ops::multiply(x, x), ones(2));
  EXPECT_EQ(place.to_vector(), (Numbers{6, -10}));

  const Var square(Tensor::from(Numbers{1, 2, 3, 4}, {2, 2}), true);
  const Tensor square_place({2, 2}, DType::f64);
  square.place_grad(square_place);
  backward(ops::matmul(square, square), Tensor::full({2, 2}, DType::f64, 1));
  // dA = dy A^T + A^T dy with dy all ones.
  EXPECT_EQ(square_place.to_vector(), (Numbers{7, 11, 9, 13}));
}

TEST(Backward, AccumulatesUntilReset) {
  const Var x(tensor({1, 2}), true);
  for (int pass = 1; pass <= 3; ++pass) {
    backward(ops::scale(x, 2), ones(2));
    EXPECT_EQ(grad(x), (Numbers{2.0 * pass, 2.0 * pass}));
  }
  x.reset_grad();
  EXPECT_FALSE(x.grad_written());
  backward(ops::scale(x, 5), ones(2));
  EXPECT_EQ(grad(x), (Numbers{5, 5}));
}

TEST(Backward, DoesNotWriteIntoGradientsItWasGiven) {
  // add hands one tensor to both inputs: the engine must not add into it.
  const Var a(tensor({1}), true), b(tensor({1}), true);
  const Var p = ops::scale(a, 1), q = ops::scale(b, 1);
  const Var y = ops::add(ops::add(p, q), p);
  const Tensor seed = ones(1);
  backward(y, seed);
  EXPECT_EQ(grad(a), (Numbers{2}));
  EXPECT_EQ(grad(b), (Numbers{1}));
  EXPECT_EQ(seed.item(), 1);
}

TEST(Backward, LeavesOutWhatNeedsNoGradient) {
  const Var x(tensor({2}), true), c(tensor({3}));
  backward(ops::multiply(x, c), ones(1));
  EXPECT_EQ(grad(x), (Numbers{3}));
  EXPECT_FALSE(c.grad().defined());
}

TEST(Backward, StopsAtDetach) {
  const Var x(tensor({2}), true);
  const Var y = ops::multiply(x, ops::scale(x, 4).detach());
  backward(y, ones(1));
  EXPECT_EQ(grad(x), (Numbers{8}));
}

TEST(Backward, RecordsNothingUnderNoGrad) {
  const Var x(tensor({2}), true);
  {
    const NoGrad off;
    EXPECT_FALSE(grad_enabled());
    EXPECT_FALSE(ops::scale(x, 2).requires_grad());
    {
      const EnableGrad on;
      EXPECT_TRUE(ops::scale(x, 2).requires_grad());
    }
    EXPECT_FALSE(grad_enabled());
  }
  EXPECT_TRUE(grad_enabled());
  EXPECT_EQ(live_nodes(), 0);
}

TEST(Backward, RefusesARootWithoutHistory) {
  EXPECT_THROW(backward(Var(tensor({1})), ones(1)), Error);
}

TEST(Backward, RefusesASeedThatIsNotThere) {
  const Var x(tensor({2}), true);
  const Var y = ops::scale(x, 3);
  EXPECT_THROW(backward(y, Tensor()), Error);  // not 1, and not nothing
  backward(y, ones(1));                        // and the graph is still whole
  EXPECT_EQ(grad(x), (Numbers{3}));
}

TEST(Backward, ASecondPassThroughAConsumedGraphThrows) {
  const Var x(tensor({2}), true);
  const Var y = ops::scale(x, 3);
  backward(y, ones(1));
  try {
    backward(y, ones(1));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "scale: backward through a graph that backward has already consumed");
  }
}

TEST(Backward, FreesTheGraph) {
  const Var x(tensor({2}), true);
  {
    Var y = x;
    for (int i = 0; i < 100; ++i) y = ops::scale(y, 1.01);
    EXPECT_EQ(live_nodes(), 100);
    backward(y, ones(1));
    EXPECT_EQ(live_nodes(), 1);  // only the root's, held by y
  }
  EXPECT_EQ(live_nodes(), 0);
  {
    Var y = x;
    for (int i = 0; i < 10; ++i) y = ops::gelu(y);
    EXPECT_EQ(live_nodes(), 10);
  }
  EXPECT_EQ(live_nodes(), 0);  // also when never run
}

// A thread's stack is 8 MiB; a call for each of these nodes would need more.
TEST(Backward, FreesAGraphTooLongForTheStack) {
  const Var x(tensor({2}), true);
  const auto pass_on = [](const Grads& dy, const GradInto&) { return dy; };
  {
    Var y = x;
    for (int i = 0; i < 500'000; ++i) y = record("pass_on", {y.value()}, {y}, pass_on)[0];
  }
  EXPECT_EQ(live_nodes(), 0);
}

TEST(Backward, FreesSavedTensorsWhileItRuns) {
  const int64_t before = device_bytes(kCpu);
  const Var x(Tensor::full({1 << 16}, DType::f64, 1), true);
  const int64_t one = device_bytes(kCpu) - before;
  Var y = x;
  for (int i = 0; i < 20; ++i) y = ops::gelu(y);
  reset_device_peak_bytes(kCpu);
  const Tensor seed = Tensor::full({1 << 16}, DType::f64, 1);
  backward(y, seed);
  // Twenty values are held at the start; each step adds a gradient and drops a saved value.
  EXPECT_LE(device_peak_bytes(kCpu) - before, 25 * one);
  EXPECT_LE(device_bytes(kCpu) - before, 5 * one);
}

TEST(Backward, HoldsNoValueThatNoClosureHolds) {
  const Var x(Tensor::full({1 << 16}, DType::f64, 1), true);
  const int64_t one = x.value().bytes(), before = device_bytes(kCpu);
  Var y = x;
  for (int i = 0; i < 20; ++i) y = ops::scale(y, 2);  // its gradient needs no value
  EXPECT_EQ(live_nodes(), 20);
  EXPECT_LE(device_bytes(kCpu) - before, one + 4096);
}

TEST(Backward, RunsFromSeveralRoots) {
  const Var x(tensor({2}), true);
  const Var y = ops::scale(x, 3), z = ops::multiply(y, y);
  backward({y, z}, {ones(1), ones(1)});
  EXPECT_EQ(grad(x), (Numbers{3 + 36}));
}

TEST(Backward, GoesFromTheLatestNodeToTheFirst) {
  std::vector<int> order;
  const auto step = [&](const Var& x, int id) {
    return record("step", {x.value().clone()}, {x}, [&order, id](const Grads& dy, const GradInto&) {
      order.push_back(id);
      return Grads{dy[0]};
    })[0];
  };
  const Var x(tensor({1}), true);
  const Var a = step(x, 0), b = step(x, 1), c = step(a, 2), d = step(b, 3);
  backward(ops::add(d, c), ones(1));
  EXPECT_EQ(order, (std::vector<int>{3, 2, 1, 0}));
}

TEST(Backward, GivesAnUndefinedGradientForAnUnusedOutput) {
  const Var x(tensor({1, 2}), true);
  bool second_unused = false;
  const Vars y = record("two", {x.value().clone(), x.value().clone()}, {x},
                        [&](const Grads& dy, const GradInto&) {
                          second_unused = !dy[1].defined();
                          return Grads{dy[0]};
                        });
  backward(y[0], ones(2));
  EXPECT_TRUE(second_unused);
}

TEST(Backward, NamesAnOpWhoseGradientHasTheWrongShape) {
  const Var x(tensor({1, 2}), true);
  const Var y = record("short", {x.value().clone()}, {x},
                       [](const Grads&, const GradInto&) { return Grads{ones(1)}; })[0];
  try {
    backward(y, ones(2));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("short: backward returned"), std::string::npos);
  }
}

TEST(Backward, KeepsBf16LeafGradientsInF32WhenPlacedThere) {
  const Var x(Tensor::full({3}, DType::bf16, 1), true);
  const Tensor place({3}, DType::f32);
  x.place_grad(place);
  for (int i = 0; i < 257; ++i) {
    backward(ops::scale(x, 1), Tensor::full({3}, DType::bf16, 1));
  }
  EXPECT_EQ(place.to_vector(), (Numbers{257, 257, 257}));  // bf16 stops at 256
}

}  // namespace
}  // namespace pyramoe
