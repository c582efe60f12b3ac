// Table look-up and its transpose.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// y[n, :] = token_table[token[n], :] + position_table[position[n], :].
//   token, position (N) i32; tables (V, D), (T, D); y (N, D)
// Throws Error(data) naming the place of a token outside [0, V) or a position outside [0, T).
PM_KERNEL(embedding_forward, (const Tensor& token, const Tensor& position,
                              const Tensor& token_table, const Tensor& position_table, Tensor& y))
// dtable[index[n], :] (+)= dy[n, :], rows added in order of n.   dy (N, D), dtable (V, D)
PM_KERNEL(embedding_backward,
          (const Tensor& dy, const Tensor& index, bool accumulate, Tensor& dtable))

}  // namespace pyramoe::kernels
