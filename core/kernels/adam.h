// Optimizer updates. Scalars that change from step to step are read on the device, so a captured
// step can be replayed.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// What an update needs besides the tensors.   See nn/step_scalars.h for `scalars`.
struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
};

// Decoupled weight decay Adam (Loshchilov and Hutter, 2019), one range of one flat buffer:
//   g = clip * grad;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
//   master -= lr * (m / bias1 / (sqrt(v / bias2) + eps) + weight_decay * master)
// and `param` = master in its own dtype (they may be the same memory). Nothing is written when the
// skip flag is set.
//   scalars f64: [lr, bias1, bias2, clip, skip, …];  all tensors (n)
PM_KERNEL(adamw_step, (const Tensor& grad, const AdamWOptions& options, const Tensor& scalars,
                       Tensor& master, Tensor& m, Tensor& v, Tensor& param))
// g = clip * grad + weight_decay * master;  m = momentum m + g;  master -= lr * m.
// m undefined = plain SGD, master -= lr * g.
PM_KERNEL(sgd_step, (const Tensor& grad, double momentum, double weight_decay,
                     const Tensor& scalars, Tensor& master, Tensor& m, Tensor& param))

}  // namespace pyramoe::kernels
