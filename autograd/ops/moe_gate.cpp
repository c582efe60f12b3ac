// Routing: noise, scores, the weights of the chosen experts, and the two losses on the router.
// Which expert was chosen is a constant to every gradient here.
#include "autograd/ops.h"
#include "core/kernels/moe.h"

namespace pyramoe::ops {

Var jitter(const Var& x, double width, const RngKey& key, int64_t first_row) {
  if (width == 0) return x;
  Tensor y = empty_like(x.value());
  kernels::jitter(x.value(), width, key, first_row, y);
  return record("jitter", {y}, {x},
                [width, key, first_row](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dx = empty_like(dy[0]);
                  kernels::jitter(dy[0], width, key, first_row, dx);
                  return {dx};
                })[0];
}

Var sigmoid_rows(const Var& x) {
  Tensor y = empty_like(x.value());
  kernels::sigmoid_rows_forward(x.value(), y);
  return record("sigmoid_rows", {y}, {x}, [y](const Grads& dy, const GradInto&) -> Grads {
    Tensor dx = empty_like(y);
    kernels::sigmoid_rows_backward(dy[0], y, dx);
    return {dx};
  })[0];
}

Var normalize_rows(const Var& x) {
  const Tensor in = x.value();
  Tensor y = empty_like(in);
  kernels::normalize_rows_forward(in, y);
  return record("normalize_rows", {y}, {x}, [in, y](const Grads& dy, const GradInto&) -> Grads {
    Tensor dx = empty_like(y);
    kernels::normalize_rows_backward(dy[0], in, y, dx);
    return {dx};
  })[0];
}

Var take(const Var& score, const Tensor& expert) {
  PM_CHECK(score.dim(0) == expert.dim(0), "take: ", score.dim(0), " rows of scores, ",
           expert.dim(0), " of choices");
  const Shape shape = score.shape();
  Tensor weight(expert.shape(), score.dtype(), expert.device());
  kernels::take_forward(score.value(), expert, weight);
  return record("take", {weight}, {score},
                [expert, shape](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dscore(shape, dy[0].dtype(), dy[0].device());
                  kernels::take_backward(dy[0], expert, dscore);
                  return {dscore};
                })[0];
}

Var keep_weights(const Var& weight, const Tensor& row, bool renormalize) {
  PM_CHECK(weight.shape() == row.shape(), "keep_weights: weights ", to_string(weight.shape()),
           ", rows ", to_string(row.shape()));
  const Tensor in = weight.value();
  Tensor kept = empty_like(in);
  kernels::keep_weights_forward(in, row, renormalize, kept);
  return record("keep_weights", {kept}, {weight},
                [in, row, renormalize](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dweight = empty_like(in);
                  kernels::keep_weights_backward(dy[0], in, row, renormalize, dweight);
                  return {dweight};
                })[0];
}

Var balance_loss(const Var& p, const Tensor& expert, int64_t group_rows, bool all_choices) {
  PM_CHECK(group_rows > 0 && p.dim(0) % group_rows == 0, "balance_loss: groups of ", group_rows,
           " rows do not divide ", p.dim(0), " rows");
  const Shape shape = p.shape();
  const Device device = p.value().device();
  Tensor loss({1}, p.dtype(), device);
  Tensor share({shape[0] / group_rows, shape[1]}, p.dtype(), device);  // (G, E)
  kernels::balance_loss_forward(p.value(), expert, group_rows, all_choices, loss, share);
  return record("balance_loss", {loss}, {p},
                [share, shape, group_rows](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dp(shape, share.dtype(), share.device());
                  kernels::balance_loss_backward(dy[0], share, group_rows, dp);
                  return {dp};
                })[0];
}

Var z_loss(const Var& logits) {
  const Tensor in = logits.value();
  Tensor loss({1}, in.dtype(), in.device());
  Tensor lse({in.dim(0)}, in.dtype(), in.device());
  kernels::z_loss_forward(in, loss, lse);
  return record("z_loss", {loss}, {logits}, [in, lse](const Grads& dy, const GradInto&) -> Grads {
    Tensor dlogits = empty_like(in);
    kernels::z_loss_backward(dy[0], in, lse, dlogits);
    return {dlogits};
  })[0];
}

}  // namespace pyramoe::ops
