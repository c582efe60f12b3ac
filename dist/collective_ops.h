// Collectives as differentiable ops.
//
// Convention: ranks of a tensor group compute the same loss and it counts once; ranks of a data
// group have their own loss over their own tokens. A collective is never inside a branch that data
// decides, and backward runs in reverse order of creation, so all ranks meet in the same order. A
// group of one returns its input and records nothing.
#pragma once

#include "autograd/var.h"
#include "dist/process_group.h"

namespace pyramoe::dist {

// Entering a tensor-parallel layer: x; the gradient is summed over the group.
Var copy_to(const Var& x, const ProcessGroup& group);
// Leaving one: the sum over the group; the gradient is passed on.
Var sum_from(const Var& x, const ProcessGroup& group);
// Own part of an axis that the ranks hold whole; the gradient is gathered. The axis divides evenly.
Var slice_to(const Var& x, const ProcessGroup& group, int axis);
// The parts of all ranks along an axis; of the gradient the own part.
Var gather_from(const Var& x, const ProcessGroup& group, int axis);

// Rows of axis 0 under way to other ranks. What is recorded between start and wait overlaps with
// the journey, in both directions: the backward of wait starts the gradient's journey home.
struct Journey {
  ProcessGroup group;
  Counts send, recv;
  int64_t rows_out = 0;
  Work there, home;  // of the rows, of their gradient
  Tensor gradient;   // arrives with `home`
};
struct PendingRows {
  Var x;                             // rows received; unreadable before wait
  std::shared_ptr<Journey> journey;  // null: nothing travels
};
PendingRows start_all_to_all(const Var& x, const Counts& send, const Counts& recv,
                             const ProcessGroup& group);
Var wait(const PendingRows& pending);
inline Var all_to_all(const Var& x, const Counts& send, const Counts& recv,
                      const ProcessGroup& group) {
  return wait(start_all_to_all(x, send, recv, group));
}

// Every rank's rows, in rank order, for ranks that each do a part of the work on all of them; the
// gradients of those parts are summed. counts: rows of each rank.
Var gather_rows(const Var& x, const Counts& counts, const ProcessGroup& group);
// The way back: own rows of the sum over the ranks; the gradient is gathered.
Var sum_to_rows(const Var& x, const Counts& counts, const ProcessGroup& group);

// x + bias on every row.   x (N, D), bias (D)
Var add_bias(const Var& x, const Var& bias);

}  // namespace pyramoe::dist
