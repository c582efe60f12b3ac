// The house's promises about ops: each op of the index has a row, and the harness can fail.
#include <fstream>
#include <regex>

#include "core/kernels/elementwise.h"
#include "tests/ops/op_test.h"

namespace pyramoe::optest {
namespace {

TEST(House, EveryOpOfTheIndexHasARow) {
  std::ifstream file(PYRAMOE_SOURCE_DIR "/autograd/ops.h");
  ASSERT_TRUE(file.good());
  const std::regex declaration(R"(^(Var|Vars) (\w+)\()");
  int found = 0;
  for (std::string line; std::getline(file, line);) {
    std::smatch match;
    if (!std::regex_search(line, match, declaration)) continue;
    ++found;
    EXPECT_TRUE(op_names().contains(match[2])) << "no OP_TEST(" << match[2] << ", …) in tests/ops";
  }
  EXPECT_GE(found, 18);
}

// A product whose gradient for the first factor is `wrong` times what it should be.
Var crooked_multiply(const Var& a, const Var& b, double wrong) {
  Tensor y = empty_like(a.value());
  kernels::multiply(a.value(), b.value(), y);
  const Tensor sa = a.value(), sb = b.value();
  return record("crooked", {y}, {a, b}, [=](const Grads& dy, const GradInto&) -> Grads {
    Tensor da = empty_like(sa), db = empty_like(sb);
    kernels::multiply(dy[0], sb, da);
    kernels::scale(da, wrong, da);
    kernels::multiply(dy[0], sa, db);
    return {da, db};
  })[0];
}

Expected product(const Tensors& t) {
  return make(t[0].shape(),
              [&](int64_t i) { return t[0].data<double>()[i] * t[1].data<double>()[i]; });
}

bool mentions(const std::vector<std::string>& problems, const std::string& text) {
  for (const std::string& p : problems) {
    if (p.find(text) != std::string::npos) return true;
  }
  return false;
}

OpRow crooked(double wrong, Shape shape) {
  return {.inputs = {normal(shape), normal(shape)},
          .f = [=](const Vars& v) { return crooked_multiply(v[0], v[1], wrong); },
          .expect = product,
          .rounding = Rounding::elementwise};
}

TEST(Harness, PassesTheRightBackward) { EXPECT_TRUE(check_op(crooked(1, {3, 4})).empty()); }

TEST(Harness, FindsAWrongBackwardInSmallAndLarge) {
  EXPECT_TRUE(mentions(check_op(crooked(1.00001, {3, 4})), "central difference"));
  EXPECT_TRUE(mentions(check_op(crooked(1.00001, {31, 33})), "random direction"));
  EXPECT_TRUE(mentions(check_op(crooked(-1, {1})), "central difference"));
}

TEST(Harness, FindsAWrongValue) {
  OpRow row = crooked(1, {3, 4});
  row.f = [](const Vars& v) { return ops::scale(ops::multiply(v[0], v[1]), 1 + 1e-9); };
  EXPECT_TRUE(mentions(check_op(row), "value of output 0"));
}

TEST(Harness, FindsANarrowResultOffByTooMuch) {
  OpRow row = crooked(1, {3, 4});
  row.f = [](const Vars& v) {
    const Var y = ops::multiply(v[0], v[1]);
    return v[0].dtype() == DType::f32 ? ops::cast(ops::cast(y, DType::bf16), DType::f32) : y;
  };
  EXPECT_TRUE(mentions(check_op(row), "f32 output 0"));
}

TEST(Harness, FindsResultsThatChangeFromRunToRun) {
  OpRow row = crooked(1, {3, 4});
  int calls = 0;
  row.f = [&calls](const Vars& v) {
    return ops::scale(ops::multiply(v[0], v[1]), 1 + (++calls % 2) * 1e-15);
  };
  EXPECT_TRUE(mentions(check_op(row), "changes from run to run"));
}

TEST(Harness, FindsAnOpThatIgnoresTheAddFlag) {
  OpRow row = crooked(1, {3, 4});
  row.f = [](const Vars& v) {
    Tensor y = v[0].value().clone();
    const Tensor b = v[1].value();
    kernels::multiply(y, b, y);
    const Tensor a = v[0].value();
    return record("overwrites", {y}, {v[0], v[1]},
                  [a, b](const Grads& dy, const GradInto& into) -> Grads {
                    Tensor da = into[0].buffer.defined() && into[0].buffer.dtype() == b.dtype()
                                    ? into[0].buffer
                                    : empty_like(a);
                    kernels::multiply(dy[0], b, da);
                    Tensor db = empty_like(b);
                    kernels::multiply(dy[0], a, db);
                    return {da, db};
                  })[0];
  };
  EXPECT_TRUE(mentions(check_op(row), "after two"));
}

TEST(Harness, FindsAGradientThatIsThereOnlyBesideAnother) {
  OpRow row = crooked(1, {3, 4});
  row.f = [](const Vars& v) {
    const bool both = v[0].requires_grad() && v[1].requires_grad();
    return both ? ops::multiply(v[0], v[1]) : ops::multiply(v[0], v[1].detach());
  };
  EXPECT_TRUE(mentions(check_op(row), "gradient 1 is missing where no other input needs one"));
}

TEST(Harness, WantsAReasonForALooserTolerance) {
  OpRow row = crooked(1, {3, 4});
  row.loosen = 10;
  EXPECT_TRUE(mentions(check_op(row), "without saying why"));
}

}  // namespace
}  // namespace pyramoe::optest
