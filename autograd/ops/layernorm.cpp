// Layer norm over the last axis, alone and after a residual add; keeps its input and two numbers a
// row.
#include "core/kernels/layernorm.h"

#include "autograd/ops.h"

namespace pyramoe::ops {
namespace {

// What backward needs: the rows that were normalised and their statistics.
struct Saved {
  Tensor h, weight, bias, mean, rstd;
  bool need_dh, need_dw, need_db;
};

Saved make_saved(const Tensor& h, bool need_dh, const Var& weight, const Var& bias) {
  const int64_t rows = h.dim(-1) ? h.numel() / h.dim(-1) : 0;
  const DType wide = h.dtype() == DType::f64 ? DType::f64 : DType::f32;
  return {h,
          weight.value(),
          bias.value(),
          Tensor({rows}, wide, h.device()),
          Tensor({rows}, wide, h.device()),
          need_dh,
          weight.requires_grad(),
          bias.requires_grad()};
}

// Gradients of the rows, the weight and the bias. `around`, when defined, reached the rows past the
// norm and is added.
Grads norm_grads(const Saved& s, const Tensor& dy, const Tensor& around, const GradPlace& to_weight,
                 const GradPlace& to_bias) {
  const auto run = [&](bool add, Tensor& dh, Tensor& dw, Tensor& db) {
    if (around.defined() && dh.defined()) {
      kernels::add_layernorm_backward(dy, around, s.h, s.weight, s.mean, s.rstd, add, dh, dw, db);
    } else {
      kernels::layernorm_backward(dy, s.h, s.weight, s.mean, s.rstd, add, dh, dw, db);
    }
  };
  Tensor dh = s.need_dh ? empty_like(s.h) : Tensor();
  Tensor dw, db;
  if (s.need_dw) dw = to_weight.buffer.defined() ? to_weight.buffer : empty_like(s.weight);
  if (s.need_db) db = to_bias.buffer.defined() ? to_bias.buffer : empty_like(s.bias);
  if (s.need_dw && s.need_db && to_weight.add != to_bias.add) {
    // One flag serves both: where they differ the engine adds the bias gradient.
    db = empty_like(s.bias);
    Tensor none;
    kernels::layernorm_backward(dy, s.h, s.weight, s.mean, s.rstd, false, none, none, db);
    run(to_weight.add, dh, dw, none);
  } else {
    run(s.need_dw ? to_weight.add : to_bias.add, dh, dw, db);
  }
  return {dh, dw, db};
}

}  // namespace

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps) {
  Saved s = make_saved(x.value(), x.requires_grad(), weight, bias);
  Tensor y = empty_like(s.h);
  kernels::layernorm_forward(s.h, s.weight, s.bias, eps, y, s.mean, s.rstd);
  return record("layer_norm", {y}, {x, weight, bias},
                [s](const Grads& dy, const GradInto& into) -> Grads {
                  return norm_grads(s, dy[0], Tensor(), into[1], into[2]);
                })[0];
}

Vars add_layer_norm(const Var& x, const Var& residual, const Var& weight, const Var& bias,
                    double eps) {
  Tensor h = empty_like(x.value()), y = empty_like(h);
  Saved s = make_saved(h, x.requires_grad() || residual.requires_grad(), weight, bias);
  kernels::add_layernorm_forward(x.value(), residual.value(), s.weight, s.bias, eps, h, y, s.mean,
                                 s.rstd);
  return record("add_layer_norm", {h, y}, {x, residual, weight, bias},
                [s](const Grads& dy, const GradInto& into) -> Grads {
                  if (!dy[1].defined()) return {dy[0], dy[0], Tensor(), Tensor()};
                  const Grads g = norm_grads(s, dy[1], dy[0], into[2], into[3]);
                  return {g[0], g[0], g[1], g[2]};
                });
}

}  // namespace pyramoe::ops
