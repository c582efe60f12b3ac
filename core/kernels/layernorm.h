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

}  // namespace pyramoe::kernels
