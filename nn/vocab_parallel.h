// A vocabulary cut over tensor ranks: each holds the rows [begin, begin + V / ranks) of the token
// table, looks up the tokens it has, makes its columns of the logits, and computes its part of the
// cross-entropy. No rank ever holds all logits of a training batch.   Source: Megatron-LM.
#pragma once

#include "autograd/var.h"
#include "dist/process_group.h"

namespace pyramoe::nn {

// y[n, :] = table[token[n] - begin, :], 0 where this rank has not the row.
//   token (N) i32, table (V / ranks, D) -> (N, D); to be summed over the ranks
Var vocab_embedding(const Tensor& token, const Var& table, int64_t begin);

// Mean over all N of -log softmax(logits)[target], from every rank's columns; the same on all.
//   logits (N, V / ranks), target (N) i32 in [0, V) -> (1)
Var vocab_cross_entropy(const Var& logits, const Tensor& target, const dist::ProcessGroup& group);

}  // namespace pyramoe::nn
