// Twins of the fused router: the plain kernels one after another, so what they compute is said
// once. Routing is f32 (f64 for an f64 model); a bf16 x is widened first, its gradient rounded
// last.
#include "core/cpu/pack.h"
#include "core/kernels/cast.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/matmul.h"
#include "core/kernels/moe.h"
#include "core/kernels/softmax.h"

namespace pyramoe::kernels::cpu {
namespace {

void check_router(const Tensor& x, const Tensor& w, const Tensor& p) {
  const DType wide = x.dtype() == DType::bf16 ? DType::f32 : x.dtype();
  PM_CHECK(x.dim(1) == w.dim(1) && p.shape() == (Shape{x.dim(0), w.dim(0)}), "router: x ",
           to_string(x.shape()), ", w ", to_string(w.shape()), ", p ", to_string(p.shape()));
  PM_CHECK(w.dtype() == wide && p.dtype() == wide, "router: x is ", to_string(x.dtype()),
           ", expected w and p in ", to_string(wide), ", came ", to_string(w.dtype()), " and ",
           to_string(p.dtype()));
}

}  // namespace

void router_forward(const Tensor& x, const Tensor& w, Tensor& p, Tensor& lse, Tensor& expert,
                    Tensor& weight) {
  check_router(x, w, p);
  if (x.dim(0) == 0) return;
  Tensor logits = empty_like(p), unused({1}, p.dtype());  // (N, E)
  linear_forward(x.to(w.dtype()), w, Tensor(), logits);
  softmax_forward(logits, p);
  z_loss_forward(logits, unused, lse);
  top_k(logits, Tensor(), expert);
  take_forward(p, expert, weight);
}

void router_losses(const Tensor& p, const Tensor& lse, const Tensor& expert, int64_t group_rows,
                   bool all_choices, Tensor& balance, Tensor& share, Tensor& z) {
  balance_loss_forward(p, expert, group_rows, all_choices, balance, share);
  if (!z.defined()) return;
  visit_floating(lse.dtype(), [&]<class T>() {
    double total = 0;
    for (const T v : lse.span<T>()) total += static_cast<double>(v) * static_cast<double>(v);
    z.data<T>()[0] = static_cast<T>(static_cast<Acc<T>>(total / static_cast<double>(lse.numel())));
  });
}

void router_backward(const Tensor& dweight, const Tensor& dbalance, const Tensor& dz,
                     const Tensor& p, const Tensor& lse, const Tensor& expert, const Tensor& share,
                     int64_t group_rows, const Tensor& x, const Tensor& w, bool add_dx, bool add_dw,
                     Tensor& dx, Tensor& dw) {
  check_router(x, w, p);
  Tensor dp = Tensor::zeros(p.shape(), p.dtype()), dlogits = empty_like(p), part = empty_like(p);
  if (dweight.defined()) take_backward(dweight, expert, dp);
  if (dbalance.defined() && p.numel() > 0) {
    balance_loss_backward(dbalance, share, group_rows, part);
    accumulate(part, dp);
  }
  softmax_backward(dp, p, dlogits);
  if (dz.defined() && p.numel() > 0) {
    visit_floating(p.dtype(), [&]<class T>() {  // d lse / d logits = p
      using A = Acc<T>;
      const A factor = 2 * static_cast<A>(dz.data<T>()[0]) / static_cast<A>(p.dim(0));
      const int64_t experts = p.dim(1);
      for (int64_t i = 0; i < p.numel(); ++i) {
        const A z = factor * static_cast<A>(lse.data<T>()[i / experts]);
        T& d = dlogits.data<T>()[i];
        d = static_cast<T>(static_cast<A>(d) + z * static_cast<A>(p.data<T>()[i]));
      }
    });
  }
  if (dw.defined()) matmul(dlogits, true, x.to(w.dtype()), false, add_dw, dw);
  if (!dx.defined()) return;
  if (dx.dtype() == w.dtype()) {
    matmul(dlogits, false, w, false, add_dx, dx);
    return;
  }
  Tensor wide(dx.shape(), w.dtype());
  matmul(dlogits, false, w, false, false, wide);
  if (add_dx) accumulate(dx, wide);
  cast(wide, dx);
}

}  // namespace pyramoe::kernels::cpu
