// What the files of the fused router share.
#pragma once

#include <cstdint>

#include "cuda/moe_choose.cuh"

namespace pyramoe::gpu {

// Logits of a tile of tokens with all experts, and what follows from them, in one kernel.
//   x (N, D) bf16 with D a multiple of 8, planes (3, E, D) bf16 with w = planes 0 + 1 + 2, E <= 512
// Its stages must fit the shared memory of a block: on sm_80 up to 32 experts do, on sm_86 and
// sm_89 none; from sm_90 on all.
bool router_tiles_fit(int64_t experts);
void router_tiles(const Bf16* x, const Bf16* planes, int64_t rows, int64_t d,
                  const ChoiceRows& out);

}  // namespace pyramoe::gpu
