// Softmax over the last axis.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// y[n, :] = exp(x[n, :]) / sum(exp(x[n, :])).   x, y (N, D)
PM_KERNEL(softmax_forward, (const Tensor& x, Tensor& y))
// dx = y * (dy - sum(dy * y)).   all (N, D)
PM_KERNEL(softmax_backward, (const Tensor& dy, const Tensor& y, Tensor& dx))

}  // namespace pyramoe::kernels
