// Layer normalisation over the last axis.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// y = (x - mean) * rstd * weight + bias, mean and rstd of each row.
//   x, y (N, D); weight, bias (D); mean, rstd (N) f32 or f64
PM_KERNEL(layernorm_forward, (const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                              Tensor& y, Tensor& mean, Tensor& rstd))
// dx from dy; dweight and dbias are added to when `accumulate`, else written.
PM_KERNEL(layernorm_backward,
          (const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
           const Tensor& rstd, bool accumulate, Tensor& dx, Tensor& dweight, Tensor& dbias))
// The same after a residual add: h = x + residual, y = layernorm(h).   h, residual (N, D)
PM_KERNEL(add_layernorm_forward,
          (const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
           double eps, Tensor& h, Tensor& y, Tensor& mean, Tensor& rstd))
// dx, the gradient of x and of residual alike, is layernorm_backward's plus dh, what reached h on
// its other ways.
PM_KERNEL(add_layernorm_backward, (const Tensor& dy, const Tensor& dh, const Tensor& h,
                                   const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                                   bool accumulate, Tensor& dx, Tensor& dweight, Tensor& dbias))

}  // namespace pyramoe::kernels
