// Element-wise ops. A gradient that passes through unchanged is handed on as it is: the engine
// never writes into a tensor that it did not make.
#include "core/kernels/elementwise.h"

#include "autograd/ops.h"

namespace pyramoe::ops {

Var add(const Var& a, const Var& b) {
  Tensor y = empty_like(a.value());
  kernels::add(a.value(), b.value(), y);
  return record("add", {y}, {a, b}, [](const Grads& dy, const GradInto&) -> Grads {
    return {dy[0], dy[0]};
  })[0];
}

Var multiply(const Var& a, const Var& b) {
  Tensor y = empty_like(a.value());
  kernels::multiply(a.value(), b.value(), y);
  // Each factor is needed only for the other's gradient.
  const Tensor saved_a = b.requires_grad() ? a.value() : Tensor();
  const Tensor saved_b = a.requires_grad() ? b.value() : Tensor();
  return record("multiply", {y}, {a, b},
                [saved_a, saved_b](const Grads& dy, const GradInto&) -> Grads {
                  Tensor da, db;
                  if (saved_b.defined()) {
                    da = empty_like(saved_b);
                    kernels::multiply(dy[0], saved_b, da);
                  }
                  if (saved_a.defined()) {
                    db = empty_like(saved_a);
                    kernels::multiply(dy[0], saved_a, db);
                  }
                  return {da, db};
                })[0];
}

Var scale(const Var& x, double factor) {
  Tensor y = empty_like(x.value());
  kernels::scale(x.value(), factor, y);
  return record("scale", {y}, {x}, [factor](const Grads& dy, const GradInto&) -> Grads {
    Tensor dx = empty_like(dy[0]);
    kernels::scale(dy[0], factor, dx);
    return {dx};
  })[0];
}

Var gelu(const Var& x) {
  Tensor y = empty_like(x.value());
  kernels::gelu_forward(x.value(), y);
  const Tensor saved = x.value();
  return record("gelu", {y}, {x}, [saved](const Grads& dy, const GradInto&) -> Grads {
    Tensor dx = empty_like(saved);
    kernels::gelu_backward(dy[0], saved, dx);
    return {dx};
  })[0];
}

Var reshape(const Var& x, Shape shape) {
  const Shape before = x.shape();
  return record(
      "reshape", {x.value().reshape(std::move(shape))}, {x},
      [before](const Grads& dy, const GradInto&) -> Grads { return {dy[0].reshape(before)}; })[0];
}

Var cast(const Var& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const DType before = x.dtype();
  return record(
      "cast", {x.value().to(dtype)}, {x},
      [before](const Grads& dy, const GradInto&) -> Grads { return {dy[0].to(before)}; })[0];
}

}  // namespace pyramoe::ops
