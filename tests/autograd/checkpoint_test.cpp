// Checkpointing changes memory and time, and not one bit of any gradient.
#include "autograd/checkpoint.h"

#include <gtest/gtest.h>

#include "autograd/ops.h"
#include "core/rng.h"

namespace pyramoe {
namespace {

Tensor random(Shape shape, uint64_t seed, DType dtype) {
  Tensor x(std::move(shape), DType::f64);
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<double>()[i] = random_normal({.seed = seed}, static_cast<uint64_t>(i));
  }
  return x.to(dtype);
}

struct Net {
  Var x, w1, b1, w2, b2, gain, shift;
  explicit Net(DType dtype, bool x_needs_grad = true)
      : x(random({9, 16}, 1, dtype), x_needs_grad),
        w1(random({33, 16}, 2, dtype), true),
        b1(random({33}, 3, dtype), true),
        w2(random({16, 33}, 4, dtype), true),
        b2(random({16}, 5, dtype), true),
        gain(random({16}, 6, dtype), true),
        shift(random({16}, 7, dtype), true) {}
  Vars all() const { return {x, w1, b1, w2, b2, gain, shift}; }
};

const RngKey key = {.seed = 3, .purpose = RngPurpose::dropout, .step = 1};

// A residual MLP with dropout; the weights are captured. Two outputs.
Vars body(const Net& net, const Var& in) {
  const Var h = ops::layer_norm(in, net.gain, net.shift);
  const Var mid = ops::dropout(ops::linear_gelu(h, net.w1, net.b1), 0.25, key, 40);
  return {ops::add(in, ops::linear(mid, net.w2, net.b2)), ops::mean(ops::multiply(h, h))};
}

struct Result {
  double loss = 0;
  std::vector<std::vector<double>> grads;
  bool operator==(const Result&) const = default;
};

// The gradients of two stacked bodies, each recomputed or kept, after `passes` backward passes.
Result run(bool recompute, DType dtype, bool x_needs_grad = true, int passes = 1) {
  const Net net(dtype, x_needs_grad);
  const VarFn f = [&net](const Vars& v) { return body(net, v[0]); };
  Result result;
  for (int pass = 0; pass < passes; ++pass) {
    const Vars first = recompute ? checkpoint(f, {net.x}) : f({net.x});
    const Vars second = recompute ? checkpoint(f, {first[0]}) : f({first[0]});
    const Tensor weight = Tensor::from(std::vector<double>{1, 0.1, 0.2}, {3});
    const Var loss = ops::weighted_sum({ops::mean(second[0]), first[1], second[1]}, weight);
    backward(loss, Tensor::scalar(1, loss.dtype()));
    result.loss = loss.value().item();
  }
  for (const Var& leaf : net.all())
    result.grads.push_back(leaf.grad().defined() ? leaf.grad().to_vector() : std::vector<double>());
  return result;
}

TEST(Checkpoint, GivesTheSameBitsAsKeeping) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Result kept = run(false, dtype), again = run(true, dtype);
    EXPECT_EQ(kept, again) << to_string(dtype);
    EXPECT_EQ(kept.grads.size(), 7u);
    for (const auto& g : kept.grads) EXPECT_FALSE(g.empty());
  }
  EXPECT_EQ(live_nodes(), 0);
}

TEST(Checkpoint, AddsOverSeveralPasses) {
  // Without x: its two gradients are joined before they reach the leaf, another order of sums.
  EXPECT_EQ(run(false, DType::f32, false, 3), run(true, DType::f32, false, 3));
}

TEST(Checkpoint, ReachesCapturedLeavesWhenNoInputNeedsAGradient) {
  const Result kept = run(false, DType::f64, false), again = run(true, DType::f64, false);
  EXPECT_EQ(kept, again);
  EXPECT_TRUE(again.grads[0].empty());
  EXPECT_FALSE(again.grads[1].empty());
}

TEST(Checkpoint, WritesPlacedGradientsInPlace) {
  const Net net(DType::f32);
  const Tensor place({33, 16}, DType::f32);
  net.w1.place_grad(place);
  const VarFn f = [&net](const Vars& v) { return body(net, v[0]); };
  const Vars y = checkpoint(f, {net.x});
  backward(y[0], Tensor::full({9, 16}, DType::f32, 1));
  EXPECT_TRUE(net.w1.grad().same_memory(place));
  EXPECT_TRUE(net.w1.grad_written());
}

TEST(Checkpoint, DropsAndKeepsTheSameElementsTheSecondTime) {
  const Var x(Tensor::full({64, 64}, DType::f64, 1), true);
  const Vars y =
      checkpoint([](const Vars& v) { return Vars{ops::dropout(v[0], 0.5, key, 0)}; }, {x});
  backward(y[0], Tensor::full({64, 64}, DType::f64, 1));
  EXPECT_EQ(x.grad().to_vector(), y[0].value().to_vector());
}

TEST(Checkpoint, SaysWhenItRunsAgain) {
  std::vector<bool> seen;
  const Var x(Tensor::full({2}, DType::f64, 1), true);
  const VarFn f = [&seen](const Vars& v) {
    seen.push_back(recomputing());
    return Vars{ops::scale(v[0], 2)};
  };
  const Vars y = checkpoint(f, {x});
  backward(y[0], Tensor::full({2}, DType::f64, 1));
  EXPECT_EQ(seen, (std::vector<bool>{false, true}));
  EXPECT_FALSE(recomputing());
}

TEST(Checkpoint, NestsAndKeepsLessMemory) {
  const Var x(Tensor::full({1 << 14}, DType::f64, 0.5), true);
  const VarFn inner = [](const Vars& v) {
    Var y = v[0];
    for (int i = 0; i < 8; ++i) y = ops::gelu(y);
    return Vars{y};
  };
  const VarFn outer = [&inner](const Vars& v) { return checkpoint(inner, checkpoint(inner, v)); };
  const Tensor seed = Tensor::full({1 << 14}, DType::f64, 1);
  const Vars plain = inner(inner({x}));
  backward(plain[0], seed);
  const std::vector<double> want = x.grad().to_vector();
  x.reset_grad();
  const int64_t before = device_bytes(kCpu);
  const Vars y = checkpoint(outer, {x});
  EXPECT_LE(device_bytes(kCpu) - before, 2 * seed.bytes());  // its output alone
  backward(y[0], seed);
  EXPECT_EQ(x.grad().to_vector(), want);
}

TEST(Checkpoint, TakesAFunctionThatGivesIdsToo) {
  const Var x(Tensor::full({2}, DType::f64, 1), true);
  const VarFn f = [](const Vars& v) {
    return Vars{Var(Tensor::zeros({3}, DType::i32)), ops::scale(v[0], 2)};
  };
  const Vars y = checkpoint(f, {x});
  EXPECT_FALSE(y[0].requires_grad());
  backward(y[1], Tensor::full({2}, DType::f64, 1));
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{2, 2}));
}

TEST(Checkpoint, RecordsNothingUnderNoGrad) {
  const Var x(Tensor::full({2}, DType::f64, 1), true);
  const NoGrad off;
  int calls = 0;
  const Vars y = checkpoint(
      [&calls](const Vars& v) {
        ++calls;
        return Vars{ops::scale(v[0], 2)};
      },
      {x});
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(y[0].requires_grad());
}

}  // namespace
}  // namespace pyramoe
