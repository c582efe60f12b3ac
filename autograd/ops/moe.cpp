// Tokens to expert segments and back, the experts' grouped products, the residual mix, and the
// dense one-hot form of dispatch that all of it is checked against.
//
// Rows of a segment tensor that no choice owns hold anything; nothing here reads them.
#include "core/kernels/moe.h"

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

// Gradients of y = x w_e^T + bias_e for x, w and bias.   dy (R, M)
Grads grouped_grads(const GroupedSaved& s, const Tensor& dy, const GradInto& into) {
  Tensor dx, dw, db;
  if (s.need_dx) {
    dx = empty_like(s.x);
    kernels::grouped_linear_dx(dy, s.offsets, s.w, dx);
  }
  if (s.need_dw) {
    // One kernel fills both; should only one of them be added to, both start fresh, as wide as
    // their places, and the engine adds.
    const bool together = !s.need_db || into[1].add == into[2].add;
    dw = together ? place_or_new(into[1], s.w) : empty_like(place_or_new(into[1], s.w));
    if (s.need_db) {
      db = together ? place_or_new(into[2], s.bias) : empty_like(place_or_new(into[2], s.bias));
    }
    kernels::grouped_linear_dw(dy, s.x, s.offsets, together && into[1].add, dw, db);
  }
  return {dx, dw, db};
}

}  // namespace

Var to_segments(const Var& x, const Tensor& row) {
  const Shape shape = x.shape();
  Tensor y({row.numel(), x.dim(1)}, x.dtype(), x.value().device());  // (N k, D)
  kernels::to_segments_forward(x.value(), row, y);
  return record("to_segments", {y}, {x}, [row, shape](const Grads& dy, const GradInto&) -> Grads {
    Tensor dx(shape, dy[0].dtype(), dy[0].device());
    kernels::to_segments_backward(dy[0], row, dx);
    return {dx};
  })[0];
}

Var from_segments(const Var& x, const Var& weight, const Tensor& row) {
  const Tensor in = x.value(), w = weight.value();
  Tensor y({row.dim(0), x.dim(1)}, x.dtype(), in.device());
  kernels::from_segments_forward(in, w, row, y);
  return record("from_segments", {y}, {x, weight},
                [in, w, row](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dx = empty_like(in), dweight = empty_like(w);
                  kernels::from_segments_backward(dy[0], in, w, row, dx, dweight);
                  return {dx, dweight};
                })[0];
}

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

Var einsum_dispatch(const Var& x, const Tensor& slot, int64_t slots) {
  const Tensor in = x.value();
  Tensor mask({in.dim(0), slots}, in.dtype(), in.device());  // (N, E C)
  kernels::one_hot_forward(Tensor(), slot, mask);
  Tensor y({slots, in.dim(1)}, in.dtype(), in.device());
  kernels::matmul(mask, true, in, false, false, y);
  return record("einsum_dispatch", {y}, {x}, [mask, in](const Grads& dy, const GradInto&) -> Grads {
    Tensor dx = empty_like(in);
    kernels::matmul(mask, false, dy[0], false, false, dx);
    return {dx};
  })[0];
}

Var einsum_combine(const Var& x, const Var& weight, const Tensor& slot) {
  const Tensor in = x.value(), w = weight.value();
  Tensor mask({slot.dim(0), in.dim(0)}, in.dtype(), in.device());  // (N, E C)
  kernels::one_hot_forward(w, slot, mask);
  Tensor y({slot.dim(0), in.dim(1)}, in.dtype(), in.device());
  kernels::matmul(mask, false, in, false, false, y);
  return record("einsum_combine", {y}, {x, weight},
                [mask, in, w, slot](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dx = empty_like(in), dmask = empty_like(mask), dweight = empty_like(w);
                  kernels::matmul(mask, true, dy[0], false, false, dx);
                  kernels::matmul(dy[0], false, in, true, false, dmask);
                  kernels::one_hot_backward(dmask, slot, dweight);
                  return {dx, dweight};
                })[0];
}

Var mix(const Var& a, const Var& b, const Var& share) {
  const Tensor sa = a.value(), sb = b.value(), ss = share.value();
  Tensor y = empty_like(sa);
  kernels::mix_forward(sa, sb, ss, y);
  return record("mix", {y}, {a, b, share}, [sa, sb, ss](const Grads& dy, const GradInto&) -> Grads {
    Tensor da = empty_like(sa), db = empty_like(sb), dshare = empty_like(ss);
    kernels::mix_backward(dy[0], sa, sb, ss, da, db, dshare);
    return {da, db, dshare};
  })[0];
}

}  // namespace pyramoe::ops
