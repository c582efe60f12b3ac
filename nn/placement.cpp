#include "nn/placement.h"

#include <cstring>

namespace pyramoe::nn {

void for_each_run(const Box& box, const Shape& local,
                  const std::function<void(int64_t, int64_t, int64_t)>& f) {
  const int64_t total = numel(local);
  if (total == 0) return;
  if (box.whole()) return f(0, 0, total);
  PM_CHECK(box.global.size() == local.size() && box.begin.size() == local.size(), "Box: part ",
           to_string(local), " of ", to_string(box.global));
  // Axes behind the last one that is cut form one run with it.
  size_t last = local.size();
  while (last > 0 && local[last - 1] == box.global[last - 1]) --last;
  const size_t axis = last > 0 ? last - 1 : 0;
  int64_t run = 1;
  for (size_t i = axis; i < local.size(); ++i) run *= local[i];
  std::vector<int64_t> stride(local.size(), 1);
  for (size_t i = local.size(); i-- > 1;) stride[i - 1] = stride[i] * box.global[i];
  Shape at(axis, 0);  // place of the run on the axes before
  for (int64_t offset = 0; offset < total; offset += run) {
    int64_t global = box.begin[axis] * stride[axis];
    for (size_t i = 0; i < axis; ++i) global += (box.begin[i] + at[i]) * stride[i];
    f(offset, global, run);
    for (size_t i = axis; i-- > 0;) {
      if (++at[i] < local[i]) break;
      at[i] = 0;
    }
  }
}

Tensor take_part(const Tensor& whole, const Box& box, const Shape& local) {
  if (box.whole()) return whole;
  PM_CHECK(whole.shape() == box.global, "take_part: ", to_string(whole.shape()), ", expected ",
           to_string(box.global));
  Tensor part(local, whole.dtype());
  const int64_t size = size_of(whole.dtype());
  for_each_run(box, local, [&](int64_t to, int64_t from, int64_t count) {
    std::memcpy(static_cast<char*>(part.raw()) + to * size,
                static_cast<const char*>(whole.raw()) + from * size,
                static_cast<size_t>(count * size));
  });
  return part;
}

void put_part(const Tensor& part, const Box& box, const Tensor& whole) {
  const int64_t size = size_of(whole.dtype());
  PM_CHECK(part.dtype() == whole.dtype(), "put_part: ", to_string(part.dtype()), " into ",
           to_string(whole.dtype()));
  for_each_run(box, part.shape(), [&](int64_t from, int64_t to, int64_t count) {
    std::memcpy(static_cast<char*>(whole.raw()) + to * size,
                static_cast<const char*>(part.raw()) + from * size,
                static_cast<size_t>(count * size));
  });
}

Box cut_axis(const Shape& global, int axis, int64_t index, int64_t parts) {
  if (parts == 1) return {};
  Box box{global, Shape(global.size(), 0)};
  const auto i = static_cast<size_t>(axis);
  PM_CHECK(global.at(i) % parts == 0, "cut_axis: axis ", axis, " of ", to_string(global),
           " does not divide into ", parts);
  box.begin[i] = global[i] / parts * index;
  return box;
}

}  // namespace pyramoe::nn
