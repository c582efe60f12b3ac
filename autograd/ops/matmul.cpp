// Products. Weight and bias gradients go straight to their place (in f32 where gradients are kept
// in f32), adding when another op has written there before.
#include "core/kernels/matmul.h"

#include "autograd/ops.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/reduce.h"

namespace pyramoe::ops {
namespace {

// The place of a gradient, or fresh memory in the value's dtype.
Tensor place_or_new(const GradPlace& place, const Tensor& value) {
  return place.buffer.defined() ? place.buffer : empty_like(value);
}

// A weight of (A, B, K) is one of (A * B, K): packed q, k, v.
Tensor as_matrix(const Tensor& w) { return w.reshape({-1, w.dim(-1)}); }

// What a linear layer keeps for its backward pass.
struct LinearSaved {
  Tensor x, w, bias;  // w (M, K), in any shape; bias for its shape alone
  bool need_dx, need_dw, need_db;
};

LinearSaved save_linear(const char* op, const Var& x, const Var& w, const Var& bias) {
  PM_CHECK(x.shape().size() == 2, op, ": x has shape ", to_string(x.shape()), ", expected (N, K)");
  PM_CHECK(x.dim(1) == w.dim(-1), op, ": x has K = ", x.dim(1), ", weight expects ", w.dim(-1));
  PM_CHECK(!bias.defined() || bias.value().numel() * w.dim(-1) == w.value().numel(), op, ": bias ",
           to_string(bias.shape()), " for a weight ", to_string(w.shape()));
  return {x.value(),         w.value(),         bias.value(),
          x.requires_grad(), w.requires_grad(), bias.requires_grad()};
}

// Gradients of y = x w^T + bias for x, w and bias.   dy (N, M)
Grads linear_grads(const LinearSaved& s, const Tensor& dy, const GradInto& into) {
  Tensor dx, dw, db;
  if (s.need_dx) {
    dx = empty_like(s.x);
    kernels::matmul(dy, false, as_matrix(s.w), false, false, dx);
  }
  if (s.need_dw) {
    dw = place_or_new(into[1], s.w);
    Tensor matrix = as_matrix(dw);
    kernels::matmul(dy, true, s.x, false, into[1].add, matrix);
  }
  if (s.need_db) {
    db = place_or_new(into[2], s.bias);
    Tensor row = db.reshape({-1});
    kernels::sum_rows(dy, into[2].add, row);
  }
  return {dx, dw, db};
}

}  // namespace

Var matmul(const Var& a, const Var& b) {
  PM_CHECK(a.shape().size() == 2 && b.shape().size() == 2 && a.dim(1) == b.dim(0),
           "matmul: ", to_string(a.shape()), " times ", to_string(b.shape()),
           ", expected (M, K) (K, N)");
  Tensor y({a.dim(0), b.dim(1)}, a.dtype(), a.value().device());
  kernels::matmul(a.value(), false, b.value(), false, false, y);
  const Tensor sa = a.value(), sb = b.value();
  const bool need_da = a.requires_grad(), need_db = b.requires_grad();
  return record("matmul", {y}, {a, b},
                [sa, sb, need_da, need_db](const Grads& dy, const GradInto& into) -> Grads {
                  Tensor da, db;
                  if (need_da) {
                    da = place_or_new(into[0], sa);
                    kernels::matmul(dy[0], false, sb, true, into[0].add, da);
                  }
                  if (need_db) {
                    db = place_or_new(into[1], sb);
                    kernels::matmul(sa, true, dy[0], false, into[1].add, db);
                  }
                  return {da, db};
                })[0];
}

Var linear(const Var& x, const Var& w, const Var& bias) {
  const LinearSaved saved = save_linear("linear", x, w, bias);
  const Tensor matrix = as_matrix(w.value());  // (M, K)
  const Tensor row = bias.defined() ? bias.value().reshape({-1}) : Tensor();
  Tensor y({x.dim(0), matrix.dim(0)}, x.dtype(), x.value().device());
  kernels::linear_forward(x.value(), matrix, row, y);
  return record("linear", {y}, {x, w, bias},
                [saved](const Grads& dy, const GradInto& into) -> Grads {
                  return linear_grads(saved, dy[0], into);
                })[0];
}

Var linear_gelu(const Var& x, const Var& w, const Var& bias) {
  const LinearSaved saved = save_linear("linear_gelu", x, w, bias);
  const Tensor matrix = as_matrix(w.value());  // (M, K)
  const Tensor row = bias.defined() ? bias.value().reshape({-1}) : Tensor();
  Tensor pre({x.dim(0), matrix.dim(0)}, x.dtype(), x.value().device());
  Tensor y = empty_like(pre);
  kernels::linear_gelu_forward(x.value(), matrix, row, pre, y);
  return record("linear_gelu", {y}, {x, w, bias},
                [saved, pre](const Grads& dy, const GradInto& into) -> Grads {
                  Tensor dpre = pre;  // nobody else holds pre: its gradient takes its memory
                  kernels::gelu_backward(dy[0], pre, dpre);
                  return linear_grads(saved, dpre, into);
                })[0];
}

Var mlp(const Var& x, const Var& up, const Var& up_bias, const Var& down, const Var& down_bias) {
  const LinearSaved first = save_linear("mlp", x, up, up_bias);
  Tensor pre({x.dim(0), up.dim(0)}, x.dtype(), x.value().device());  // (N, F)
  Tensor hidden = empty_like(pre);
  kernels::linear_gelu_forward(x.value(), up.value(), up_bias.value(), pre, hidden);
  LinearSaved second = save_linear("mlp", Var(hidden), down, down_bias);
  Tensor y({x.dim(0), down.dim(0)}, x.dtype(), x.value().device());  // (N, D)
  kernels::linear_forward(hidden, down.value(), down_bias.value(), y);
  // (N, F): the backward pass makes it again from pre. Not on a CPU: there that takes a step 2 %.
  if (hidden.device() != kCpu) second.x = Tensor();
  return record("mlp", {y}, {x, up, up_bias, down, down_bias},
                [first, second, pre](const Grads& dy, const GradInto& into) -> Grads {
                  LinearSaved last = second;
                  Tensor again, dpre = last.x.defined() ? empty_like(pre) : pre;  // pre is ours
                  if (!last.x.defined()) again = last.x = empty_like(pre);
                  kernels::linear_dx_gelu(dy[0], last.w, pre, dpre, again);
                  const Grads d = linear_grads(last, dy[0], {{}, into[3], into[4]});
                  again = last.x = Tensor();
                  Grads grads = linear_grads(first, dpre, {into[0], into[1], into[2]});
                  grads.push_back(d[1]);
                  grads.push_back(d[2]);
                  return grads;
                })[0];
}

}  // namespace pyramoe::ops
