// Tokens to expert segments and back, the residual mix, and the dense one-hot form of dispatch that
// all of it is checked against. (experts.cpp has the experts' products.)
//
// Rows of a segment tensor that no choice owns hold anything; nothing here reads them.
#include "core/kernels/moe.h"

#include "autograd/ops.h"
#include "core/kernels/matmul.h"

namespace pyramoe::ops {

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

namespace {

void check_weight(const char* op, const Tensor& w, const Tensor& row) {
  PM_CHECK(w.shape() == row.shape(), op, ": weights ", to_string(w.shape()), ", rows ",
           to_string(row.shape()));
}

// The backward pass of both forms; a residual's gradient is dy itself.
BackwardFn from_segments_grads(const Tensor& in, const Tensor& w, const Tensor& row) {
  return [in, w, row](const Grads& dy, const GradInto& into) -> Grads {
    Tensor dx = empty_like(in), dweight = empty_like(w);
    kernels::from_segments_backward(dy[0], in, w, row, dx, dweight);
    Grads grads{dx, dweight};
    if (into.size() == 3) grads.push_back(dy[0]);
    return grads;
  };
}

}  // namespace

Var from_segments(const Var& x, const Var& weight, const Tensor& row) {
  const Tensor in = x.value(), w = weight.value();
  check_weight("from_segments", w, row);
  Tensor y({row.dim(0), x.dim(1)}, x.dtype(), in.device());
  kernels::from_segments_forward(in, w, row, y);
  return record("from_segments", {y}, {x, weight}, from_segments_grads(in, w, row))[0];
}

Var from_segments_add(const Var& x, const Var& weight, const Tensor& row, const Var& residual) {
  const Tensor in = x.value(), w = weight.value();
  check_weight("from_segments_add", w, row);
  Tensor y = empty_like(residual.value());
  kernels::from_segments_add_forward(in, w, row, residual.value(), y);
  return record("from_segments_add", {y}, {x, weight, residual},
                from_segments_grads(in, w, row))[0];
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
