// Sums to one element. Results are f32 (f64 for f64), also over bf16.
#include "core/kernels/reduce.h"

#include <algorithm>

#include "autograd/ops.h"
#include "core/kernels/elementwise.h"

namespace pyramoe::ops {
namespace {

DType sum_dtype(DType type) { return type == DType::f64 ? DType::f64 : DType::f32; }

// factor * sum(x)
Var scaled_sum(const char* op, const Var& x, double factor) {
  Tensor y({1}, sum_dtype(x.dtype()), x.value().device());
  kernels::sum_all(x.value(), y);
  if (factor != 1) kernels::scale(y, factor, y);
  const Tensor like = x.value();  // for its shape; the numbers are not read
  return record(op, {y}, {x}, [like, factor](const Grads& dy, const GradInto&) -> Grads {
    Tensor dx = Tensor::full(like.shape(), like.dtype(), factor, like.device());
    kernels::scale_by(dx, dy[0], dx);
    return {dx};
  })[0];
}

}  // namespace

Var sum(const Var& x) { return scaled_sum("sum", x, 1); }

Var mean(const Var& x) {
  PM_CHECK(x.value().numel() > 0, "mean: of no elements, shape ", to_string(x.shape()));
  return scaled_sum("mean", x, 1 / static_cast<double>(x.value().numel()));
}

Var weighted_sum(const Vars& terms, const Tensor& weight) {
  PM_CHECK(!terms.empty(), "weighted_sum: no terms");
  Tensors values;
  bool wide = false;
  for (const Var& term : terms) {
    values.push_back(term.value());
    wide |= term.dtype() == DType::f64;
  }
  Tensor y({1}, wide ? DType::f64 : DType::f32, values[0].device());
  kernels::weighted_sum(values, weight, y);
  std::vector<std::pair<Shape, DType>> like;
  for (const Tensor& v : values) like.emplace_back(v.shape(), v.dtype());
  return record("weighted_sum", {y}, terms,
                [like, weight](const Grads& dy, const GradInto&) -> Grads {
                  Grads grads;
                  for (size_t i = 0; i < like.size(); ++i) {
                    const auto n = static_cast<int64_t>(i);
                    Tensor g = empty_like(dy[0]);
                    kernels::scale_by(dy[0], weight.rows(n, n + 1), g);
                    grads.push_back(g.to(like[i].second).reshape(like[i].first));
                  }
                  return grads;
                })[0];
}

}  // namespace pyramoe::ops
