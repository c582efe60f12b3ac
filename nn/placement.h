// Where a parameter lies on the mesh: which part of the logical tensor this rank holds, who else
// holds it, and over whom its gradient is summed. All that parallelism means to an optimizer, a
// checkpoint or an initial value.
#pragma once

#include <functional>

#include "core/tensor.h"
#include "dist/process_group.h"

namespace pyramoe::nn {

// This rank's part of a logical tensor: elements [begin, begin + local shape) of each axis.
struct Box {
  Shape global;  // empty: the local tensor is the whole
  Shape begin;
  bool whole() const { return global.empty(); }
};

struct Placement {
  dist::ProcessGroup sync;  // gradients are summed over it
  int64_t copies = 1;       // ranks of the world with an equal copy; the norm divides by it
  Box box;
  // Of an expert whose rows come from several ranks, where sums must not depend on the layout: its
  // gradient by the rank that sent the rows, (experts x ranks, …). Else undefined.
  Tensor by_source = {};
};

// Calls f(local, global, count) for runs of elements that are neighbours in both.
void for_each_run(const Box& box, const Shape& local,
                  const std::function<void(int64_t, int64_t, int64_t)>& f);
// The logical shape of a tensor with this part.
inline const Shape& global_shape(const Box& box, const Shape& local) {
  return box.whole() ? local : box.global;
}
// The part of a logical tensor, and back into one. CPU tensors of one dtype.
Tensor take_part(const Tensor& whole, const Box& box, const Shape& local);
void put_part(const Tensor& part, const Box& box, const Tensor& whole);

// The box of part `index` of `parts` equal ones along an axis of a logical shape; parts = 1: whole.
Box cut_axis(const Shape& global, int axis, int64_t index, int64_t parts);

}  // namespace pyramoe::nn
