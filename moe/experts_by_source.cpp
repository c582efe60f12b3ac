#include "moe/experts_by_source.h"

#include "core/kernels/matmul.h"

namespace pyramoe::moe {

// The values are those of ops::grouped_mlp: a row's result depends on no other row. What differs is
// the cut of the sums over rows: one product for each expert and source instead of each expert.
Segments mlp_by_source(const Segments& in, const ExpertWeights& weights, const SourceGrads& grads) {
  const Tensor x = in.x.value(), offsets = in.offsets, runs = in.by_source;
  const Tensor up = weights.up.value(), down = weights.down.value();
  PM_CHECK(runs.defined() && runs.numel() == grads.up.dim(0) + 1,
           "mlp_by_source: ", runs.defined() ? runs.numel() : 0, " offsets for ", grads.up.dim(0),
           " pairs of expert and rank");
  Tensor pre({x.dim(0), up.dim(1)}, x.dtype(), x.device());  // (R, F)
  Tensor y({x.dim(0), down.dim(1)}, x.dtype(), x.device());  // (R, D)
  {
    Tensor hidden = empty_like(pre);
    kernels::grouped_linear_gelu_forward(x, offsets, up, weights.up_bias.value(), pre, hidden);
    kernels::grouped_linear_forward(hidden, offsets, down, weights.down_bias.value(), y);
  }
  const bool need_dx = in.x.requires_grad();
  const Var out = record(
      "mlp_by_source", {y}, {in.x, weights.up, weights.up_bias, weights.down, weights.down_bias},
      [=](const Grads& dy, const GradInto&) -> Grads {
        SourceGrads to = grads;
        Tensor hidden = empty_like(pre), dpre = pre;  // nobody else holds pre
        kernels::grouped_linear_dx_gelu(dy[0], offsets, down, pre, dpre, hidden);
        kernels::grouped_linear_dw(dy[0], hidden, runs, false, to.down, to.down_bias);
        kernels::grouped_linear_dw(dpre, x, runs, false, to.up, to.up_bias);
        Tensor dx;
        if (need_dx) {
          dx = empty_like(x);
          kernels::grouped_linear_dx(dpre, offsets, up, dx);
        }
        return {dx, {}, {}, {}, {}};
      })[0];
  return {out, in.offsets, in.route, in.by_source};
}

}  // namespace pyramoe::moe
