// Kernels that draw random numbers, all from counters (core/rng.h).
#pragma once

#include "core/kernel.h"
#include "core/rng.h"

namespace pyramoe::kernels {

// y = x / (1 - p) where kept, 0 where dropped; element i of row n has id (first_row + n) * D + i.
// Kernels of a GPU add key.now (core/rng.h), wherever a key and a first row are given.
// The same call on dy is the backward pass.   x, y (N, D)
PM_KERNEL(dropout, (const Tensor& x, double p, const RngKey& key, int64_t first_row, Tensor& y))

}  // namespace pyramoe::kernels
