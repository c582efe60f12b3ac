// Causal self-attention on packed q, k, v; keeps one log-sum-exp a query instead of T x T scores.
#include "core/kernels/attention.h"

#include "autograd/ops.h"

namespace pyramoe::ops {

Var attention(const Var& qkv, const kernels::AttentionDropout& dropout) {
  const Tensor x = qkv.value();
  PM_CHECK(x.rank() == 5 && x.dim(2) == 3, "attention: qkv has shape ", to_string(x.shape()),
           ", expected (B, T, 3, H, Dh)");
  const int64_t b = x.dim(0), t = x.dim(1), h = x.dim(3), dh = x.dim(4);
  Tensor y({b, t, h * dh}, x.dtype(), x.device());
  Tensor lse({b, h, t}, x.dtype() == DType::f64 ? DType::f64 : DType::f32, x.device());
  kernels::attention_forward(x, dropout, y, lse);
  return record("attention", {y}, {qkv},
                [x, y, lse, dropout](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dqkv = empty_like(x);
                  kernels::attention_backward(dy[0], x, y, lse, dropout, dqkv);
                  return {dqkv};
                })[0];
}

}  // namespace pyramoe::ops
