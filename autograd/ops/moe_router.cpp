// The fused router: gate, choices and losses from one kernel, gradients from another.
//
// x goes through: whoever sends the tokens on takes the op's first output, so all gradients of x
// arrive here and the router's own is added to them in the pass that computes it.
#include "autograd/ops.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/moe.h"

namespace pyramoe::ops {
namespace {

// Where dx = (what came for x) + (the router's part) goes: into the memory that came, when nobody
// else holds it.
Tensor gather_dx(const Tensor& came, const Tensor& x) {
  if (!came.defined()) return empty_like(x);
  return came.storage().use_count() == 1 ? came : came.clone();
}

}  // namespace

Vars router(const Var& x, const Var& w, const RouterOptions& options, Tensor* expert) {
  const Tensor in = x.value(), weights = w.value();
  PM_CHECK(in.rank() == 2 && weights.rank() == 2 && in.dim(1) == weights.dim(1), "router: x ",
           to_string(in.shape()), ", w ", to_string(weights.shape()),
           ", expected (N, D) and (E, D)");
  const Device device = in.device();
  const DType wide = weights.dtype();
  const int64_t rows = in.dim(0), experts = weights.dim(0), group_rows = options.group_rows;
  Tensor p({rows, experts}, wide, device), lse({rows}, wide, device);
  Tensor chosen({rows, options.top_k}, DType::i32, device);
  Tensor weight({rows, options.top_k}, wide, device);
  kernels::router_forward(in, weights, p, lse, chosen, weight);
  *expert = chosen;
  Tensor balance, share, z;
  if (group_rows > 0) {
    balance = Tensor({1}, wide, device);
    share = Tensor({rows / group_rows, experts}, wide, device);  // (G, E)
    if (options.z_loss) z = Tensor({1}, wide, device);
    kernels::router_losses(p, lse, chosen, group_rows, options.all_choices, balance, share, z);
  }
  Tensors outputs{in, weight};
  if (balance.defined()) outputs.push_back(balance);
  if (z.defined()) outputs.push_back(z);
  const bool need_dx = x.requires_grad(), need_dw = w.requires_grad();
  Vars y = record("router", outputs, {x, w}, [=](const Grads& dy, const GradInto& into) -> Grads {
    const Tensor none;
    Tensor dx = need_dx ? gather_dx(dy[0], in) : Tensor();
    Tensor dw = !need_dw                   ? Tensor()
                : into[1].buffer.defined() ? into[1].buffer
                                           : empty_like(weights);
    kernels::router_backward(dy[1], dy.size() > 2 ? dy[2] : none, dy.size() > 3 ? dy[3] : none, p,
                             lse, chosen, share, group_rows, in, weights, dy[0].defined(),
                             into[1].add, dx, dw);
    return {dx, dw};
  });
  y.resize(4);
  return y;
}

}  // namespace pyramoe::ops
