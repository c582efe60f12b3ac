// Element-wise kernels: one output element from the same element of each input.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// y[i] = value.   any dtype
PM_KERNEL(fill, (double value, Tensor& y))
// y = a + b.   all of one shape and floating dtype
PM_KERNEL(add, (const Tensor& a, const Tensor& b, Tensor& y))
// y += x.   x may be narrower than y (bf16 into f32)
PM_KERNEL(accumulate, (const Tensor& x, Tensor& y))
// y = a * b.   all of one shape
PM_KERNEL(multiply, (const Tensor& a, const Tensor& b, Tensor& y))
// y = factor * x
PM_KERNEL(scale, (const Tensor& x, double factor, Tensor& y))
// y = factor[0] * x, the factor read on the device.   factor (1), any floating dtype
PM_KERNEL(scale_by, (const Tensor& x, const Tensor& factor, Tensor& y))
// y = factor[0] * x, or y += factor[0] * x when `add`; the dtypes of x and y may differ.
PM_KERNEL(add_scaled, (const Tensor& x, const Tensor& factor, bool add, Tensor& y))
// y[i] = gelu(x[i]), the tanh form of GPT-2.
PM_KERNEL(gelu_forward, (const Tensor& x, Tensor& y))
// dx = dy * gelu'(x)
PM_KERNEL(gelu_backward, (const Tensor& dy, const Tensor& x, Tensor& dx))

}  // namespace pyramoe::kernels
