// The head's product and the losses behind it as one op: where the logits go, their gradient is
// written at once, so device memory is crossed once for both.
//
// The forward pass finds the gradients for d(objective)/d(loss) = 1 as well. With one chunk the
// logits' gradient itself is kept, and both products wait for backward. With several it lives for
// its chunk's turn alone, so the products are done here: dx (N, D) and dw (V, D), wide enough to
// sum over chunks, in order.
#include <algorithm>

#include "autograd/ops.h"
#include "autograd/ops/mean_of.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/loss.h"
#include "core/kernels/matmul.h"
#include "core/kernels/reduce.h"

namespace pyramoe::ops {
namespace {

// A teacher's logits are needed for a moment only: so many rows of them exist at a time.
constexpr int64_t kTeacherRows = 2048;

struct Head {
  Tensor x, w, target;
  bool need_dx, need_dw;
  int64_t chunk;
  Teacher teacher;       // without features: none
  Tensor loss, distill;  // of each row
  Tensor teacher_room, dlogits, dx, dw;

  Head(const Var& features, const Var& weight, Tensor targets, int64_t chunk_rows)
      : x(features.value()),
        w(weight.value()),
        target(std::move(targets)),
        need_dx(features.requires_grad()),
        need_dw(weight.requires_grad()),
        chunk(chunk_rows == 0 ? x.dim(0) : std::min(chunk_rows, x.dim(0))),
        loss({x.dim(0)}, x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device()) {}

  int64_t rows() const { return x.dim(0); }
  bool whole() const { return chunk >= rows(); }
  bool grads() const { return grad_enabled() && (need_dx || need_dw); }

  void use(const Teacher& from) {
    teacher = from;
    distill = empty_like(loss);
    teacher_room =
        Tensor({std::min({kTeacherRows, chunk, rows()}), w.dim(0)}, x.dtype(), x.device());
  }

  void forward() {
    const Tensor room({chunk, w.dim(0)}, x.dtype(), x.device());
    if (grads() && !whole() && need_dx) dx = empty_like(x);
    if (grads() && !whole() && need_dw) dw = Tensor(w.shape(), loss.dtype(), x.device());
    for (int64_t begin = 0; begin < rows(); begin += chunk) {
      const int64_t end = std::min(begin + chunk, rows());
      const Tensor part = x.rows(begin, end);
      Tensor logits = room.rows(0, end - begin);
      kernels::linear_forward(part, w, Tensor(), logits);
      find_losses(begin, logits);
      if (!grads()) continue;
      if (whole()) dlogits = logits;
      if (dx.defined()) {
        Tensor dpart = dx.rows(begin, end);
        kernels::matmul(logits, false, w, false, false, dpart);
      }
      if (dw.defined()) kernels::matmul(logits, true, part, false, begin > 0, dw);
    }
    teacher = {};
    teacher_room = {};
  }

  // Of the rows from `begin` on; their logits become their gradient where one is wanted.
  void find_losses(int64_t begin, Tensor& logits) {
    const int64_t end = begin + logits.dim(0);
    Tensor l = loss.rows(begin, end);
    if (teacher.x.defined()) return find_both(begin, logits);
    if (grads()) {
      kernels::cross_entropy_in_place(target.rows(begin, end), rows(), logits, l);
    } else {
      Tensor lse = empty_like(l);
      kernels::cross_entropy_forward(logits, target.rows(begin, end), l, lse);
    }
  }

  void find_both(int64_t begin, Tensor& logits) {
    const int64_t step = teacher_room.dim(0), end = begin + logits.dim(0);
    for (int64_t at = begin; at < end; at += step) {
      const int64_t to = std::min(at + step, end);
      Tensor taught = teacher_room.rows(0, to - at), own = logits.rows(at - begin, to - begin);
      Tensor l = loss.rows(at, to), d = distill.rows(at, to);
      kernels::linear_forward(teacher.x.rows(at, to), teacher.weight, Tensor(), taught);
      kernels::distill_in_place(target.rows(at, to), taught, teacher.temperature, teacher.share,
                                rows(), own, l, d);
    }
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

void check_head(const char* op, const Var& x, const Var& weight, const Tensor& target,
                int64_t chunk) {
  const int64_t n = x.dim(0);
  PM_CHECK(x.shape().size() == 2 && weight.shape().size() == 2 && x.dim(1) == weight.dim(1) &&
               n > 0 && target.numel() == n && chunk >= 0,
           op, ": x ", to_string(x.shape()), ", weight ", to_string(weight.shape()), ", ",
           target.numel(), " targets, chunks of ", chunk,
           "; expected (N, D), (V, D) and N targets");
}

}  // namespace

Var head_loss(const Var& x, const Var& weight, const Tensor& target, int64_t chunk) {
  check_head("head_loss", x, weight, target, chunk);
  Head head(x, weight, target, chunk);
  head.forward();
  return record(
      "head_loss", {mean_of(head.loss)}, {x, weight},
      [head](const Grads& dy, const GradInto& into) { return head.backward(dy[0], into[1]); })[0];
}

Vars head_distill_loss(const Var& x, const Var& weight, const Tensor& target,
                       const Teacher& teacher, int64_t chunk) {
  check_head("head_distill_loss", x, weight, target, chunk);
  const Tensor &tx = teacher.x, &tw = teacher.weight;
  PM_CHECK(tx.rank() == 2 && tw.rank() == 2 && tx.dim(0) == x.dim(0) && tx.dim(1) == tw.dim(1) &&
               tw.dim(0) == weight.dim(0) && tx.dtype() == x.dtype() && tw.dtype() == x.dtype() &&
               teacher.share.numel() == 2 && teacher.temperature > 0,
           "head_distill_loss: teacher's features ", to_string(tx.shape()), ", weight ",
           to_string(tw.shape()), ", ", teacher.share.numel(), " shares, temperature ",
           teacher.temperature,
           "; expected (N, D'), (V, D') of the student's dtype, N = ", x.dim(0),
           ", V = ", weight.dim(0), ", 2 shares, and a temperature > 0");
  Head head(x, weight, target, chunk);
  head.use(teacher);
  head.forward();
  const Tensor means[] = {mean_of(head.loss), mean_of(head.distill)};
  Tensor objective = empty_like(means[0]);
  kernels::weighted_sum(means, teacher.share, objective);
  const Var y = record(
      "head_distill_loss", {objective}, {x, weight},
      [head](const Grads& dy, const GradInto& into) { return head.backward(dy[0], into[1]); })[0];
  return {y, Var(means[0]), Var(means[1])};
}

}  // namespace pyramoe::ops
