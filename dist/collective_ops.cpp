#include "dist/collective_ops.h"

#include <cstring>
#include <numeric>

#include "core/kernels/matmul.h"
#include "core/kernels/reduce.h"

namespace pyramoe::dist {
namespace {

Tensor summed(const Tensor& x, const ProcessGroup& group) {
  Tensor y = x.clone();
  group.all_reduce(y);
  return y;
}

// Outer, axis and inner sizes of a shape.
struct Cut {
  int64_t outer = 1, length, inner = 1;
  Cut(const Shape& shape, int axis) : length(shape.at(static_cast<size_t>(axis))) {
    for (int i = 0; i < axis; ++i) outer *= shape[static_cast<size_t>(i)];
    for (size_t i = static_cast<size_t>(axis) + 1; i < shape.size(); ++i) inner *= shape[i];
  }
};

// Elements [begin, begin + count) of an axis.
Tensor slice_axis(const Tensor& x, int axis, int64_t begin, int64_t count) {
  if (axis == 0) return x.rows(begin, begin + count).clone();
  const Tensor host = x.to(kCpu);
  const Cut cut(x.shape(), axis);
  PM_CHECK(begin >= 0 && begin + count <= cut.length, "slice_axis: [", begin, ", ", begin + count,
           ") of axis ", axis, " of ", to_string(x.shape()));
  Shape shape = x.shape();
  shape[static_cast<size_t>(axis)] = count;
  Tensor part(shape, x.dtype(), kCpu);
  const auto run = static_cast<size_t>(cut.inner * size_of(x.dtype()));
  auto* to = static_cast<char*>(part.raw());
  const auto* from = static_cast<const char*>(host.raw());
  for (int64_t o = 0; o < cut.outer; ++o) {
    std::memcpy(to + static_cast<size_t>(o * count) * run,
                from + static_cast<size_t>(o * cut.length + begin) * run,
                static_cast<size_t>(count) * run);
  }
  return part.to(x.device());
}

// Parts, one behind the other along an axis.
Tensor join_axis(const Tensors& parts, int axis) {
  int64_t length = 0;
  for (const Tensor& part : parts) length += part.dim(axis);
  Shape shape = parts.at(0).shape();
  shape[static_cast<size_t>(axis)] = length;
  const Cut cut(shape, axis);
  Tensor whole(shape, parts[0].dtype(), kCpu);
  const auto run = static_cast<size_t>(cut.inner * size_of(whole.dtype()));
  auto* to = static_cast<char*>(whole.raw());
  int64_t begin = 0;
  for (const Tensor& part : parts) {
    const Tensor host = part.to(kCpu);
    const auto* from = static_cast<const char*>(host.raw());
    const int64_t count = part.dim(axis);
    for (int64_t o = 0; o < cut.outer; ++o) {
      std::memcpy(to + static_cast<size_t>(o * length + begin) * run,
                  from + static_cast<size_t>(o * count) * run, static_cast<size_t>(count) * run);
    }
    begin += count;
  }
  return whole.to(parts[0].device());
}

Tensor gathered(const Tensor& x, const ProcessGroup& group, int axis) {
  Shape shape = x.shape();
  shape.insert(shape.begin(), group.size());
  Tensor all(shape, x.dtype(), x.device());
  shape[0] = 1;
  group.all_gather(x.reshape(shape), all);
  if (axis == 0) {
    Shape whole = x.shape();
    whole[0] *= group.size();
    return all.reshape(whole);
  }
  Tensors parts;
  for (int r = 0; r < group.size(); ++r) parts.push_back(all.rows(r, r + 1).reshape(x.shape()));
  return join_axis(parts, axis);
}

Tensor own_part(const Tensor& x, const ProcessGroup& group, int axis) {
  PM_CHECK(x.dim(axis) % group.size() == 0, "slice_to: axis ", axis, " of ", to_string(x.shape()),
           " over ", group.size(), " ranks");
  const int64_t part = x.dim(axis) / group.size();
  return slice_axis(x, axis, group.rank() * part, part);
}

Tensor with_rows(const Tensor& like, int64_t rows) {
  Shape shape = like.shape();
  shape.at(0) = rows;
  return Tensor(shape, like.dtype(), like.device());
}

int64_t total(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

}  // namespace

Var copy_to(const Var& x, const ProcessGroup& group) {
  if (group.size() == 1) return x;
  return record("copy_to", {x.value()}, {x}, [group](const Grads& dy, const GradInto&) -> Grads {
    return {summed(dy[0], group)};
  })[0];
}

Var sum_from(const Var& x, const ProcessGroup& group) {
  if (group.size() == 1) return x;
  return record("sum_from", {summed(x.value(), group)}, {x},
                [](const Grads& dy, const GradInto&) -> Grads { return {dy[0]}; })[0];
}

Var slice_to(const Var& x, const ProcessGroup& group, int axis) {
  if (group.size() == 1) return x;
  return record("slice_to", {own_part(x.value(), group, axis)}, {x},
                [group, axis](const Grads& dy, const GradInto&) -> Grads {
                  return {gathered(dy[0], group, axis)};
                })[0];
}

Var gather_from(const Var& x, const ProcessGroup& group, int axis) {
  if (group.size() == 1) return x;
  return record("gather_from", {gathered(x.value(), group, axis)}, {x},
                [group, axis](const Grads& dy, const GradInto&) -> Grads {
                  return {own_part(dy[0], group, axis)};
                })[0];
}

PendingRows start_all_to_all(const Var& x, const Counts& send, const Counts& recv,
                             const ProcessGroup& group) {
  if (group.size() == 1) return {x, nullptr};
  Tensor y = with_rows(x.value(), total(recv));
  auto journey = std::make_shared<Journey>(Journey{group, send, recv, x.dim(0), {}, {}, {}});
  journey->there = group.start_all_to_all(x.value(), send, y, recv);
  // The backward of wait, which runs before, has sent the gradient home.
  const Var arrived =
      record("start_all_to_all", {y}, {x}, [journey](const Grads&, const GradInto&) -> Grads {
        journey->home.wait();
        return {journey->gradient};
      })[0];
  return {arrived, journey};
}

Var wait(const PendingRows& pending) {
  if (!pending.journey) return pending.x;
  pending.journey->there.wait();
  return record("wait_all_to_all", {pending.x.value()}, {pending.x},
                [journey = pending.journey](const Grads& dy, const GradInto&) -> Grads {
                  journey->gradient = with_rows(dy[0], journey->rows_out);
                  journey->home = journey->group.start_all_to_all(dy[0], journey->recv,
                                                                  journey->gradient, journey->send);
                  return {dy[0]};
                })[0];
}

Var gather_rows(const Var& x, const Counts& counts, const ProcessGroup& group) {
  if (group.size() == 1) return x;
  Tensor y = with_rows(x.value(), total(counts));
  group.all_gather(x.value(), y, counts);
  return record("gather_rows", {y}, {x},
                [group, counts](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dx = with_rows(dy[0], counts[static_cast<size_t>(group.rank())]);
                  group.reduce_scatter(dy[0], dx, counts);
                  return {dx};
                })[0];
}

Var sum_to_rows(const Var& x, const Counts& counts, const ProcessGroup& group) {
  if (group.size() == 1) return x;
  Tensor y = with_rows(x.value(), counts.at(static_cast<size_t>(group.rank())));
  group.reduce_scatter(x.value(), y, counts);
  return record("sum_to_rows", {y}, {x},
                [group, counts](const Grads& dy, const GradInto&) -> Grads {
                  Tensor dx = with_rows(dy[0], total(counts));
                  group.all_gather(dy[0], dx, counts);
                  return {dx};
                })[0];
}

Var add_bias(const Var& x, const Var& bias) {
  if (!bias.defined()) return x;
  const int64_t rows = x.dim(0), cols = x.dim(1);
  // A product with a column of ones: one multiplication by 1 and one addition an element.
  const Tensor ones = Tensor::full({rows, 1}, x.dtype(), 1.0, kCpu).to(x.value().device());
  Tensor y = x.value().clone();
  kernels::matmul(ones, false, bias.value().reshape({1, cols}), false, true, y);
  const Tensor like = bias.value();
  return record("add_bias", {y}, {x, bias}, [like](const Grads& dy, const GradInto& into) -> Grads {
    Tensor db = into[1].buffer.defined() ? into[1].buffer : empty_like(like);
    kernels::sum_rows(dy[0], into[1].add, db);
    return {dy[0], db};
  })[0];
}

}  // namespace pyramoe::dist
