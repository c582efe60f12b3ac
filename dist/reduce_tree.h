// Sums of what several ranks sent, as one pairwise tree in rank order.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace pyramoe::dist {

// out = the sum (or maximum) of parts[0], parts[1], …: the first half (the largest power of two
// below their number) and the rest are summed by themselves, then added. Elementwise, so the same
// for any cut of a tensor. `out` may be one of the parts. CPU tensors of one dtype and length.
void sum_tree(const Tensors& parts, const Tensor& out);
void max_of_parts(const Tensors& parts, const Tensor& out);

}  // namespace pyramoe::dist
