#include "moe/dispatch_ops.h"

#include <algorithm>
#include <vector>

#include "core/kernels/moe.h"

namespace pyramoe::moe {

EinsumSlots einsum_slots(const Routing& routing) {
  const std::vector<double> ends = routing.offsets.to_vector();
  const auto experts = static_cast<int64_t>(ends.size()) - 1;
  double longest = 1;
  for (size_t e = 0; e + 1 < ends.size(); ++e) longest = std::max(longest, ends[e + 1] - ends[e]);
  const auto width = static_cast<int64_t>(longest);
  std::vector<int32_t> padded;
  for (int64_t e = 0; e <= experts; ++e) padded.push_back(static_cast<int32_t>(e * width));
  const Device device = routing.row.device();
  EinsumSlots slots{Tensor(routing.row.shape(), DType::i32, device),
                    Tensor::from(padded, {experts + 1}, device), experts * width};
  kernels::padded_slots(routing.expert, routing.row, routing.offsets, width, slots.slot);
  return slots;
}

}  // namespace pyramoe::moe
