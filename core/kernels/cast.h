// Conversion between element types.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// y[i] = x[i] in y's dtype; to bf16 rounds to nearest even. Floating, i32 and i64 on both sides.
PM_KERNEL(cast, (const Tensor& x, Tensor& y))

}  // namespace pyramoe::kernels
