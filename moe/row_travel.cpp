#include "moe/row_travel.h"

#include <numeric>

#include "core/kernels/moe.h"

namespace pyramoe::moe {

Shuffle reorder(const std::vector<int64_t>& counts, const std::vector<size_t>& order,
                Device device) {
  std::vector<int64_t> start(counts.size());  // of each run, in the new order
  int64_t next = 0;
  for (const size_t run : order) {
    start[run] = next;
    next += counts[run];
  }
  std::vector<int32_t> there(static_cast<size_t>(next)), back(there.size());
  int64_t now = 0;
  for (size_t run = 0; run < counts.size(); ++run) {
    for (int64_t i = 0; i < counts[run]; ++i, ++now) {
      there[static_cast<size_t>(now)] = static_cast<int32_t>(start[run] + i);
      back[static_cast<size_t>(start[run] + i)] = static_cast<int32_t>(now);
    }
  }
  return {Tensor::from(there, {next, 1}, device), Tensor::from(back, {next, 1}, device)};
}

Shuffle compact(const std::vector<int64_t>& counts, const std::vector<size_t>& order, int64_t width,
                Device device) {
  const auto blocks = static_cast<int64_t>(counts.size());
  std::vector<int32_t> there(static_cast<size_t>(blocks * width), -1), back;
  for (const size_t run : order) {
    for (int64_t i = 0; i < counts[run]; ++i) {
      const int64_t from = static_cast<int64_t>(run) * width + i;
      there[static_cast<size_t>(from)] = static_cast<int32_t>(back.size());
      back.push_back(static_cast<int32_t>(from));
    }
  }
  const auto rows = static_cast<int64_t>(back.size());
  return {Tensor::from(there, {blocks * width, 1}, device), Tensor::from(back, {rows, 1}, device)};
}

Var move_rows(const Var& x, const Tensor& row, int64_t rows) {
  const Shape shape = x.shape();
  Tensor y({rows, x.dim(1)}, x.dtype(), x.value().device());
  kernels::to_segments_forward(x.value(), row, y);
  return record("move_rows", {y}, {x}, [row, shape](const Grads& dy, const GradInto&) -> Grads {
    Tensor dx(shape, dy[0].dtype(), dy[0].device());
    kernels::to_segments_backward(dy[0], row, dx);
    return {dx};
  })[0];
}

std::vector<size_t> swap_outer(size_t a, size_t b, size_t c) {
  std::vector<size_t> order;
  for (size_t j = 0; j < b; ++j) {
    for (size_t i = 0; i < a; ++i) {
      for (size_t k = 0; k < c; ++k) order.push_back((i * b + j) * c + k);
    }
  }
  return order;
}

dist::Counts sum_parts(const std::vector<int64_t>& counts, size_t parts) {
  const size_t each = counts.size() / parts;
  dist::Counts sums(parts, 0);
  for (size_t i = 0; i < counts.size(); ++i) sums[i / each] += counts[i];
  return sums;
}

std::vector<int64_t> exchange_counts(const std::vector<int64_t>& counts,
                                     const dist::ProcessGroup& group) {
  const auto n = static_cast<int64_t>(counts.size());
  if (group.size() == 1) return counts;
  const Tensor mine = Tensor::from(counts, {n});
  Tensor theirs({n}, DType::i64);
  group.all_to_all(mine, theirs, "counts");  // who waits here waits for slower ranks
  const std::span<int64_t> all = theirs.span<int64_t>();
  return {all.begin(), all.end()};
}

std::vector<int64_t> segment_lengths(const Tensor& offsets) {
  const std::vector<double> ends = offsets.to_vector();
  std::vector<int64_t> lengths;
  for (size_t e = 0; e + 1 < ends.size(); ++e) {
    lengths.push_back(static_cast<int64_t>(ends[e + 1] - ends[e]));
  }
  return lengths;
}

Tensor offsets_of(const std::vector<int64_t>& lengths, Device device) {
  std::vector<int32_t> offsets{0};
  for (const int64_t length : lengths) {
    offsets.push_back(offsets.back() + static_cast<int32_t>(length));
  }
  return Tensor::from(offsets, {static_cast<int64_t>(offsets.size())}, device);
}

}  // namespace pyramoe::moe
