// Where the tiles of a grouped product lie: a list that is never written down.
//
// An expert with n rows has ceil(n / tile) row tiles, each crossed with every column tile. The
// running count of row tiles is all a block needs: it is summed from the offsets in shared memory
// by one warp, once a block, and a tile's number then says its expert, rows and columns. So skewed
// segments spread over the multiprocessors as evenly as equal ones, and the host reads nothing.
#pragma once

#include <cstdint>

namespace pyramoe::gpu::grouped {

// before[e] = sum of tiles(rows of an expert) over experts 0 ... e - 1, for e <= experts. Called by
// one whole warp.
template <class Tiles>
__device__ __forceinline__ void count_tiles(const int32_t* offsets, int experts, int* before,
                                            Tiles&& tiles_of) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int sum = 0;
  for (int first = 0; first < experts; first += 32) {
    const int e = first + lane;
    int tiles = e < experts ? tiles_of(offsets[e + 1] - offsets[e]) : 0;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {  // inclusive prefix sum over the warp
      const int other = __shfl_up_sync(0xffffffffu, tiles, static_cast<unsigned>(step));
      if (lane >= step) tiles += other;
    }
    if (e < experts) before[e + 1] = sum + tiles;
    sum += __shfl_sync(0xffffffffu, tiles, 31);
  }
  if (lane == 0) before[0] = 0;
}

__device__ __forceinline__ void count_row_tiles(const int32_t* offsets, int experts, int tile,
                                                int* before) {
  count_tiles(offsets, experts, before, [&](int rows) { return (rows + tile - 1) / tile; });
}

}  // namespace pyramoe::gpu::grouped
