// Losses of logits. Both are means over all rows, in nats, f32 (f64 for f64). A row whose target is
// ignored counts as a row with loss 0. Fused with the head's product: autograd/ops/head_loss.cpp.
#include "core/kernels/loss.h"

#include "autograd/ops.h"
#include "autograd/ops/mean_of.h"

namespace pyramoe::ops {
namespace {

DType loss_dtype(const Tensor& logits) {
  return logits.dtype() == DType::f64 ? DType::f64 : DType::f32;
}

void check_logits(const char* op, const Tensor& logits) {
  PM_CHECK(logits.rank() == 2 && logits.numel() > 0, op, ": logits have shape ",
           to_string(logits.shape()), ", expected (N, V) with at least one row");
}

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
