// A weight that two calls share, each with a bias of its own: when the second one's gradients are
// found the weight's place has been written, its bias's has not.
#include <cmath>

#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

using Call = std::function<Var(const Var& x, const Var& w, const Var& bias)>;

struct Leaves {
  Var x, w, first, second;
  Leaves(const Shape& weight, const Shape& bias)
      : x(normal({6, 3}).make(1)),
        w(normal(weight).make(2), true),
        first(normal(bias).make(3), true),
        second(normal(bias).make(4), true) {}

  std::vector<double> gradients(const Call& call) const {
    const Var y = ops::add(call(x, w, first), call(x, w, second));
    backward(y, normal(y.shape()).make(5));
    std::vector<double> all;
    for (const Var& leaf : {w, first, second}) {
      for (const double g : leaf.grad().to_vector()) all.push_back(g);
    }
    return all;
  }
};

void expect_same_in_places(const Call& call, const Shape& weight, const Shape& bias) {
  const Leaves plain(weight, bias), placed(weight, bias);
  for (const Var& leaf : {placed.w, placed.first, placed.second}) {
    leaf.place_grad(Tensor::full(leaf.shape(), DType::f64, NAN));
  }
  const std::vector<double> want = plain.gradients(call), got = placed.gradients(call);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-13) << i;
}

TEST(SharedWeight, OfALinearLayer) {
  expect_same_in_places(ops::linear, {4, 3}, {4});
  expect_same_in_places(ops::linear_gelu, {4, 3}, {4});
}

TEST(SharedWeight, OfANorm) {
  const Call norm = [](const Var& x, const Var& w, const Var& bias) {
    return ops::layer_norm(x, w, bias);
  };
  expect_same_in_places(norm, {3}, {3});
}

TEST(SharedWeight, OfExperts) {
  const Tensor offsets = Tensor::from(std::vector<int32_t>{0, 2, 6}, {3});
  const Call linear = [&](const Var& x, const Var& w, const Var& bias) {
    return ops::grouped_linear(x, offsets, w, bias);
  };
  const Call gelu = [&](const Var& x, const Var& w, const Var& bias) {
    return ops::grouped_linear_gelu(x, offsets, w, bias);
  };
  expect_same_in_places(linear, {2, 4, 3}, {2, 4});
  expect_same_in_places(gelu, {2, 4, 3}, {2, 4});
}

}  // namespace
}  // namespace pyramoe::optest
