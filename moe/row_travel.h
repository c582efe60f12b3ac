// Rows between ranks: the reorderings and counts that dispatchers share.
//
// Rows lie in runs (of one source and one expert, say). A Shuffle puts runs into another order,
// keeping the rows of a run together; it is an index tensor for move_rows, so it is
// differentiable, and its way back is one too.
#pragma once

#include <vector>

#include "autograd/var.h"
#include "dist/collective_ops.h"

namespace pyramoe::moe {

struct Shuffle {
  Tensor there, back;  // (R, 1) i32: new row of each row
};

// Runs of counts[i] rows, in this order now, come to lie in the order counts[order[0]], ….
Shuffle reorder(const std::vector<int64_t>& counts, const std::vector<size_t>& order,
                Device device);
// Runs lie in blocks of `width` rows of which the first counts[i] matter; the others are left
// behind on the way there and are unwritten on the way back.
Shuffle compact(const std::vector<int64_t>& counts, const std::vector<size_t>& order, int64_t width,
                Device device);
// x with row n copied to the rows row[n, :], of `rows` in all; -1 is nowhere. ops::to_segments with
// a result as long as what travels.   x (N, D), row (N, k) i32 -> (rows, D)
Var move_rows(const Var& x, const Tensor& row, int64_t rows);

// The order that swaps the two outer axes of a list of a x b x c runs: (i, j, k) -> (j, i, k).
std::vector<size_t> swap_outer(size_t a, size_t b, size_t c);
// Sums of `parts` equal stretches of a list.
dist::Counts sum_parts(const std::vector<int64_t>& counts, size_t parts);
// Every rank gives counts for all ranks, equally many each, and gets what they have for it.
std::vector<int64_t> exchange_counts(const std::vector<int64_t>& counts,
                                     const dist::ProcessGroup& group);
// Lengths of segments from their offsets (E + 1); waits for the device. And back, from 0.
std::vector<int64_t> segment_lengths(const Tensor& offsets);
Tensor offsets_of(const std::vector<int64_t>& lengths, Device device);

}  // namespace pyramoe::moe
