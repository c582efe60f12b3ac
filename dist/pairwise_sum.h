// The tree of dist/reduce_tree.h over tensors that come one after the other, say the gradients of
// micro-batches: n of them are added up as the first half (the largest power of two below n) and
// the rest. Keeps one sum for each bit of their number, so 2^k on each of several ranks, summed
// over the ranks by a collective, have the bits of all of them on one rank.
#pragma once

#include "core/tensor.h"

namespace pyramoe::dist {

class PairwiseSum {
 public:
  // The next one; it is copied. All of one shape, dtype and device.
  void add(const Tensor& x);
  // Writes the sum of all, at least one, and starts anew.
  void take(Tensor sum);
  void clear() { count_ = 0; }

 private:
  Tensors level_;  // level_[i] sums 2^i of them, where bit i of count_ is set
  uint64_t count_ = 0;
};

}  // namespace pyramoe::dist
