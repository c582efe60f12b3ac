// Losses. Both are means over all rows, in nats, f32 (f64 for f64). A row whose target is ignored
// counts as a row with loss 0.
#include "core/kernels/loss.h"

#include <algorithm>

#include "autograd/ops.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/matmul.h"
#include "core/kernels/reduce.h"

namespace pyramoe::ops {
namespace {

DType loss_dtype(const Tensor& logits) {
  return logits.dtype() == DType::f64 ? DType::f64 : DType::f32;
}

Tensor mean_of(const Tensor& loss) {
  Tensor y({1}, loss.dtype(), loss.device());
  kernels::sum_all(loss, y);
  kernels::scale(y, 1 / static_cast<double>(loss.numel()), y);
  return y;
}

void check_logits(const char* op, const Tensor& logits) {
  PM_CHECK(logits.rank() == 2 && logits.numel() > 0, op, ": logits have shape ",
           to_string(logits.shape()), ", expected (N, V) with at least one row");
}

// head_loss's forward pass, which finds the gradients for d(objective)/d(loss) = 1 as well: where
// the logits go, their gradient is written at once, so device memory is crossed once for both.
//
// With one chunk that gradient itself is kept, and both products wait for backward. With several it
// lives for its chunk's turn alone, so the products are done here: dx (N, D) and dw (V, D), wide
// enough to sum over chunks, in order.
struct Head {
  Tensor x, w, target;
  bool need_dx, need_dw;
  int64_t chunk;
  Tensor dlogits, dx, dw;

  int64_t rows() const { return x.dim(0); }
  bool whole() const { return chunk >= rows(); }

  Tensor forward() {
    const bool grads = grad_enabled() && (need_dx || need_dw);
    Tensor loss({rows()}, loss_dtype(x), x.device()), lse = empty_like(loss);
    const Tensor room({std::min(chunk, rows()), w.dim(0)}, x.dtype(), x.device());
    if (grads && !whole() && need_dx) dx = empty_like(x);
    if (grads && !whole() && need_dw) dw = Tensor(w.shape(), loss.dtype(), x.device());
    for (int64_t begin = 0; begin < rows(); begin += chunk) {
      const int64_t end = std::min(begin + chunk, rows());
      const Tensor part = x.rows(begin, end), hit = target.rows(begin, end);
      Tensor logits = room.rows(0, end - begin), l = loss.rows(begin, end);
      kernels::linear_forward(part, w, Tensor(), logits);
      if (!grads) {
        Tensor kept = lse.rows(begin, end);
        kernels::cross_entropy_forward(logits, hit, l, kept);
        continue;
      }
      kernels::cross_entropy_in_place(hit, rows(), logits, l);
      if (whole()) dlogits = logits;
      if (dx.defined()) {
        Tensor dpart = dx.rows(begin, end);
        kernels::matmul(logits, false, w, false, false, dpart);
      }
      if (dw.defined()) kernels::matmul(logits, true, part, false, begin > 0, dw);
    }
    return mean_of(loss);
  }

  Grads backward(const Tensor& dloss, const GradPlace& into_w) const {
    Tensor gx = dx, gw;
    if (need_dx) {
      if (whole()) {
        gx = empty_like(x);
        kernels::matmul(dlogits, false, w, false, false, gx);
      }
      kernels::scale_by(gx, dloss, gx);
    }
    if (need_dw) {
      gw = into_w.buffer.defined() ? into_w.buffer : empty_like(w);
      if (whole()) {  // scaling x is N D, scaling the logits' gradient would be N V
        Tensor scaled = empty_like(x);
        kernels::scale_by(x, dloss, scaled);
        kernels::matmul(dlogits, true, scaled, false, into_w.add, gw);
      } else {
        kernels::add_scaled(dw, dloss, into_w.add, gw);
      }
    }
    return {gx, gw};
  }
};

}  // namespace

Var cross_entropy(const Var& logits, const Tensor& target, bool reuse_logits) {
  const Tensor x = logits.value();
  check_logits("cross_entropy", x);
  const int64_t n = x.dim(0);
  Tensor loss({n}, loss_dtype(x), x.device()), lse = empty_like(loss);
  kernels::cross_entropy_forward(x, target, loss, lse);
  return record("cross_entropy", {mean_of(loss)}, {logits},
                [x, target, lse, n, reuse_logits](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dx = reuse_logits ? x : empty_like(x);
                  kernels::cross_entropy_backward(dy[0], x, target, lse, n, dx);
                  return {dx};
                })[0];
}

Var head_loss(const Var& x, const Var& weight, const Tensor& target, int64_t chunk) {
  const int64_t n = x.dim(0);
  PM_CHECK(x.shape().size() == 2 && weight.shape().size() == 2 && x.dim(1) == weight.dim(1) &&
               n > 0 && target.numel() == n && chunk >= 0,
           "head_loss: x ", to_string(x.shape()), ", weight ", to_string(weight.shape()), ", ",
           target.numel(), " targets, chunks of ", chunk,
           "; expected (N, D), (V, D) and N targets");
  Head head{x.value(),
            weight.value(),
            target,
            x.requires_grad(),
            weight.requires_grad(),
            chunk == 0 ? n : std::min(chunk, n),
            {},
            {},
            {}};
  const Tensor loss = head.forward();
  return record("head_loss", {loss}, {x, weight}, [head](const Grads& dy, const GradInto& into) {
    return head.backward(dy[0], into[1]);
  })[0];
}

Var distill_loss(const Var& student, const Tensor& teacher, double temperature) {
  const Tensor s = student.value(), t = teacher.to(s.dtype());
  check_logits("distill_loss", s);
  PM_CHECK(temperature > 0, "distill_loss: temperature ", temperature, ", expected > 0");
  Tensor loss({s.dim(0)}, loss_dtype(s), s.device());
  Tensor student_lse = empty_like(loss), teacher_lse = empty_like(loss);
  kernels::distill_forward(s, t, temperature, loss, student_lse, teacher_lse);
  return record("distill_loss", {mean_of(loss)}, {student},
                [=](const Grads& dy, const GradInto&) -> Grads {
                  Tensor ds = empty_like(s);
                  kernels::distill_backward(dy[0], s, t, temperature, student_lse, teacher_lse, ds);
                  return {ds};
                })[0];
}

}  // namespace pyramoe::ops
