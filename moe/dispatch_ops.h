// The dense one-hot form of dispatch: every expert gets the same number of slots, and tokens reach
// them by a product with an (N, E C) mask, as the einsum code of GShard and early DeepSpeed did.
// It multiplies zeros, on purpose.
#pragma once

#include "moe/routing.h"

namespace pyramoe::moe {

struct EinsumSlots {
  Tensor slot;     // (N, k) i32 in [0, E C), -1 = dropped
  Tensor offsets;  // (E + 1) i32: 0, C, 2 C, …
  int64_t total;   // E C
};

// Rows of the longest segment; reading it waits for the device.
int64_t longest_segment(const Routing& routing);
// C is `width`, at least 1; by default the longest segment.
EinsumSlots einsum_slots(const Routing& routing, int64_t width = 0);

}  // namespace pyramoe::moe
