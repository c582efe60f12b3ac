// Sums. Every sum runs over fixed blocks in a fixed order, so it is the same bits for any number
// of threads.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// y[0] = sum of x.   x any floating dtype, y (1) f32 or f64
PM_KERNEL(sum_all, (const Tensor& x, Tensor& y))
// y[j] (+)= sum_i x[i, j].   x (N, D), y (D)
PM_KERNEL(sum_rows, (const Tensor& x, bool accumulate, Tensor& y))
// y[0] = sum of x[i]^2, in f64.   y (1) f64
PM_KERNEL(sum_squares, (const Tensor& x, Tensor& y))
// y[0] = sum_i weight[i] * terms[i][0].   terms: one-element tensors, weight (n) f64, y (1)
PM_KERNEL(weighted_sum, (std::span<const Tensor> terms, const Tensor& weight, Tensor& y))

}  // namespace pyramoe::kernels
