// Layer norm over the last axis; keeps x and two numbers a row.
#include "core/kernels/layernorm.h"

#include "autograd/ops.h"

namespace pyramoe::ops {

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps) {
  const Tensor in = x.value(), w = weight.value(), b = bias.value();
  const int64_t rows = in.dim(-1) ? in.numel() / in.dim(-1) : 0;
  const DType wide = in.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor y = empty_like(in), mean({rows}, wide, in.device()), rstd({rows}, wide, in.device());
  kernels::layernorm_forward(in, w, b, eps, y, mean, rstd);
  const bool need_dx = x.requires_grad(), need_dw = weight.requires_grad(),
             need_db = bias.requires_grad();
  const auto backward = [in, w, b, mean, rstd, need_dx, need_dw, need_db](
                            const Grads& dy, const GradInto& into) -> Grads {
    Tensor dx = need_dx ? empty_like(in) : Tensor();
    Tensor dw, db;
    if (need_dw) dw = into[1].buffer.defined() ? into[1].buffer : empty_like(w);
    if (need_db) db = into[2].buffer.defined() ? into[2].buffer : empty_like(b);
    const bool add = need_dw ? into[1].add : into[2].add;
    if (need_dw && need_db && into[1].add != into[2].add) {
      // One flag serves both: where they differ the engine adds the bias gradient.
      db = empty_like(b);
      Tensor none;
      kernels::layernorm_backward(dy[0], in, w, mean, rstd, false, none, none, db);
      kernels::layernorm_backward(dy[0], in, w, mean, rstd, add, dx, dw, none);
      return {dx, dw, db};
    }
    kernels::layernorm_backward(dy[0], in, w, mean, rstd, add, dx, dw, db);
    return {dx, dw, db};
  };
  return record("layer_norm", {y}, {x, weight, bias}, backward)[0];
}

}  // namespace pyramoe::ops
