// The experts' grouped products, alone and as one MLP per expert.
//
// Rows of a segment tensor that no choice owns hold anything; nothing here reads them. Weight and
// bias gradients go straight to their place, adding when another op has written there before.
#include "autograd/ops.h"
#include "core/kernels/matmul.h"

namespace pyramoe::ops {
namespace {

Tensor place_or_new(const GradPlace& place, const Tensor& value) {
  return place.buffer.defined() ? place.buffer : empty_like(value);
}

// What a grouped linear layer keeps for its backward pass.
struct GroupedSaved {
  Tensor x, offsets, w, bias;  // bias for its shape alone
  bool need_dx, need_dw, need_db;
};

GroupedSaved save_grouped(const char* op, const Var& x, const Tensor& offsets, const Var& w,
                          const Var& bias) {
  PM_CHECK(x.shape().size() == 2 && w.shape().size() == 3 && x.dim(1) == w.dim(2), op, ": x ",
           to_string(x.shape()), " for weights ", to_string(w.shape()),
           ", expected (R, K) and (E, M, K)");
  PM_CHECK(offsets.numel() == w.dim(0) + 1, op, ": ", offsets.numel(), " offsets for ", w.dim(0),
           " experts");
  PM_CHECK(!bias.defined() || bias.shape() == (Shape{w.dim(0), w.dim(1)}), op, ": bias ",
           to_string(bias.shape()), " for weights ", to_string(w.shape()));
  return {x.value(),         offsets,           w.value(),           bias.value(),
          x.requires_grad(), w.requires_grad(), bias.requires_grad()};
}

// Gradients of w and bias for x, whose places are `w` and `bias`.   dy (R, M)
struct WeightGrads {
  Tensor dw, db;
};
WeightGrads weight_grads(const GroupedSaved& s, const Tensor& x, const Tensor& dy,
                         const GradPlace& w, const GradPlace& bias) {
  if (!s.need_dw && !s.need_db) return {};
  // One kernel fills both. Should only one of them be wanted or added to, both start fresh, as wide
  // as their places, and the engine adds.
  const bool together = s.need_dw && (!s.need_db || w.add == bias.add);
  Tensor dw = place_or_new(w, s.w), db;
  if (s.need_db) db = place_or_new(bias, s.bias);
  if (!together) dw = empty_like(dw);
  if (!together && s.need_db) db = empty_like(db);
  kernels::grouped_linear_dw(dy, x, s.offsets, together && w.add, dw, db);
  return {s.need_dw ? dw : Tensor(), db};
}

// Gradients of y = x w_e^T + bias_e for x, w and bias.   dy (R, M)
Grads grouped_grads(const GroupedSaved& s, const Tensor& dy, const GradInto& into) {
  Tensor dx;
  if (s.need_dx) {
    dx = empty_like(s.x);
    kernels::grouped_linear_dx(dy, s.offsets, s.w, dx);
  }
  const WeightGrads grads = weight_grads(s, s.x, dy, into[1], into[2]);
  return {dx, grads.dw, grads.db};
}

}  // namespace

Var grouped_linear(const Var& x, const Tensor& offsets, const Var& w, const Var& bias) {
  const GroupedSaved saved = save_grouped("grouped_linear", x, offsets, w, bias);
  Tensor y({x.dim(0), w.dim(1)}, x.dtype(), x.value().device());
  kernels::grouped_linear_forward(x.value(), offsets, w.value(), bias.value(), y);
  return record("grouped_linear", {y}, {x, w, bias},
                [saved](const Grads& dy, const GradInto& into) -> Grads {
                  return grouped_grads(saved, dy[0], into);
                })[0];
}

Var grouped_linear_gelu(const Var& x, const Tensor& offsets, const Var& w, const Var& bias) {
  const GroupedSaved saved = save_grouped("grouped_linear_gelu", x, offsets, w, bias);
  Tensor pre({x.dim(0), w.dim(1)}, x.dtype(), x.value().device());
  Tensor y = empty_like(pre);
  kernels::grouped_linear_gelu_forward(x.value(), offsets, w.value(), bias.value(), pre, y);
  return record("grouped_linear_gelu", {y}, {x, w, bias},
                [saved, pre](const Grads& dy, const GradInto& into) -> Grads {
                  Tensor dpre = pre;  // nobody else holds pre: its gradient takes its memory
                  kernels::grouped_gelu_backward(dy[0], pre, saved.offsets, dpre);
                  return grouped_grads(saved, dpre, into);
                })[0];
}

Var grouped_mlp(const Var& x, const Tensor& offsets, const Var& up, const Var& up_bias,
                const Var& down, const Var& down_bias) {
  const GroupedSaved first = save_grouped("grouped_mlp", x, offsets, up, up_bias);
  Tensor pre({x.dim(0), up.dim(1)}, x.dtype(), x.value().device());  // (R, F)
  Tensor hidden = empty_like(pre);
  kernels::grouped_linear_gelu_forward(x.value(), offsets, up.value(), up_bias.value(), pre,
                                       hidden);
  GroupedSaved second = save_grouped("grouped_mlp", Var(hidden), offsets, down, down_bias);
  Tensor y({x.dim(0), down.dim(1)}, x.dtype(), x.value().device());  // (R, D)
  kernels::grouped_linear_forward(hidden, offsets, down.value(), down_bias.value(), y);
  second.x = Tensor();  // (R, F): the backward pass makes it again from pre
  return record("grouped_mlp", {y}, {x, up, up_bias, down, down_bias},
                [first, second, pre](const Grads& dy, const GradInto& into) -> Grads {
                  Tensor again = empty_like(pre), dpre = pre;  // nobody else holds pre
                  kernels::grouped_linear_dx_gelu(dy[0], second.offsets, second.w, pre, dpre,
                                                  again);
                  const WeightGrads d = weight_grads(second, again, dy[0], into[3], into[4]);
                  again = Tensor();
                  Grads grads = grouped_grads(first, dpre, {into[0], into[1], into[2]});
                  grads.push_back(d.dw);
                  grads.push_back(d.db);
                  return grads;
                })[0];
}

}  // namespace pyramoe::ops
