// Random ops. Nothing but the key is kept: the backward pass draws the same numbers again.
#include "core/kernels/random.h"

#include "autograd/ops.h"

namespace pyramoe::ops {

Var dropout(const Var& x, double p, const RngKey& key, int64_t first_row) {
  if (p == 0) return x;
  Tensor y = empty_like(x.value());
  kernels::dropout(x.value(), p, key, first_row, y);
  return record("dropout", {y}, {x},
                [p, key, first_row](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dx = empty_like(dy[0]);
                  kernels::dropout(dy[0], p, key, first_row, dx);
                  return {dx};
                })[0];
}

}  // namespace pyramoe::ops
