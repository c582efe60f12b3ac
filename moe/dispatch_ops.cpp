#include "moe/dispatch_ops.h"

#include <algorithm>
#include <vector>

#include "core/kernels/moe.h"

namespace pyramoe::moe {

int64_t longest_segment(const Routing& routing) {
  const std::vector<double> ends = routing.offsets.to_vector();
  double longest = 0;
  for (size_t e = 0; e + 1 < ends.size(); ++e) longest = std::max(longest, ends[e + 1] - ends[e]);
  return static_cast<int64_t>(longest);
}

EinsumSlots einsum_slots(const Routing& routing, int64_t given) {
  const int64_t experts = routing.offsets.dim(0) - 1;
  const int64_t width = std::max<int64_t>(1, given > 0 ? given : longest_segment(routing));
  std::vector<int32_t> padded;
  for (int64_t e = 0; e <= experts; ++e) padded.push_back(static_cast<int32_t>(e * width));
  const Device device = routing.row.device();
  EinsumSlots slots{Tensor(routing.row.shape(), DType::i32, device),
                    Tensor::from(padded, {experts + 1}, device), experts * width};
  kernels::padded_slots(routing.expert, routing.row, routing.offsets, width, slots.slot);
  return slots;
}

}  // namespace pyramoe::moe
