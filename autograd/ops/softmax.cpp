// Softmax over the last axis: the smallest complete op, a good one to read first.
#include "core/kernels/softmax.h"

#include "autograd/ops.h"

namespace pyramoe::ops {

Var softmax(const Var& x) {
  Tensor y = empty_like(x.value());
  kernels::softmax_forward(x.value(), y);
  return record("softmax", {y}, {x}, [y](const Grads& dy, const GradInto&) -> Grads {
    Tensor dx = empty_like(y);
    kernels::softmax_backward(dy[0], y, dx);
    return {dx};
  })[0];
}

}  // namespace pyramoe::ops
