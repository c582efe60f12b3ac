// What a training step keeps on the device between its first kernel and the host's one look at its
// end: totals of what it reports, and the decision whether and how much to clip.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// The elements of all terms, one after the other, are added to `totals`.
//   terms  f64, f32, bf16 or i32, any number of elements;  totals (n) f64
PM_KERNEL(add_to_totals, (std::span<const Tensor> terms, Tensor& totals))
// From the sums of squares of the gradients' parts and the step's loss:
//   norm = sqrt(sum of squares);  clip = min(1, most / (norm + 1e-6)), or 1 when most = 0;
//   skip = 1 when norm or loss is not a finite number, else 0.
//   squares (G) f64, loss (1) f64, scalars f64: [3] = clip, [4] = skip, [5] = norm are written
PM_KERNEL(guard_step, (const Tensor& squares, const Tensor& loss, double most, Tensor& scalars))

}  // namespace pyramoe::kernels
