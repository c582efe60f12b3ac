// Gradients of micro-batches, added up in an order that no layout changes
// (parallel.deterministic = "layout").
//
// Every parameter's gradient is the sum over the step's micro-batches as one pairwise tree over
// their place in the batch. A data rank has 2^k neighbours of them, which are one branch; where an
// expert gets rows of several ranks, each rank's are kept apart until the step's end. What the
// micro-batches contribute has the same bits on any data and expert layout already, because rows
// of a product do not depend on each other. Read next: dist/pairwise_sum.h.
#pragma once

#include <vector>

#include "dist/pairwise_sum.h"
#include "train/flat_buffers.h"

namespace pyramoe::train {

class LayoutSum {
 public:
  // Borrows the buffers. Every backward pass must overwrite all gradients (reset_grads).
  explicit LayoutSum(FlatBuffers& buffers);
  void start();
  // The gradients of one micro-batch are complete.
  void add();
  // The flat gradients become the sums over this rank's micro-batches, and where rows came from
  // several ranks over theirs. What is left is the sum over ranks that hold the same parameter.
  void finish();

 private:
  struct Piece {
    Tensor from;          // of one micro-batch
    Tensor to;            // of all
    int64_t sources = 1;  // ranks kept apart in `from`
    dist::PairwiseSum sum = {};
  };
  std::vector<Piece> pieces_;
};

}  // namespace pyramoe::train
