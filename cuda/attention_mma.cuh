// Two products that serve both directions of the mma path: tiles of 64 rows, a warp owns 16.
//
// mma.m16n8k16 leaves a lane two neighbouring columns of rows lane / 4 and lane / 4 + 8. The same
// pattern is what it wants as its left operand, so scores turn into probabilities and go into the
// next product without leaving the registers. Tile rows are padded by 16 bytes: the eight rows
// that one ldmatrix reads then lie in different banks.
#pragma once

#include <cuda_bf16.h>

#include "cuda/launch.cuh"
#include "cuda/mma.cuh"

namespace pyramoe::gpu::attention {

constexpr int kTile = 64;           // queries or keys of a tile
constexpr int kMmaThreads = 128;    // four warps of 16 rows
constexpr int kScores = kTile / 8;  // groups of eight columns in a tile of scores

template <int kDim>
constexpr int kStride = kDim + 8;
template <int kDim>
constexpr int kTileElements = kTile* kStride<kDim>;

// c[g][0, 1]: columns 8 g + 2 (lane % 4) + {0, 1} of row lane / 4; c[g][2, 3]: of row + 8.
template <int kGroups>
using Fragment = float[kGroups][4];

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&x);
}

// c (16 rows of a, 64 rows of b) = a bᵀ.   a, b (rows, kDim) in shared memory
template <int kDim>
__device__ __forceinline__ void product_abt(Fragment<kScores>& c, const Bf16* a, const Bf16* b) {
  const int lane = threadIdx.x % 32, r = lane % 8, m = lane / 8;
#pragma unroll
  for (int g = 0; g < kScores; ++g) c[g][0] = c[g][1] = c[g][2] = c[g][3] = 0;
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    uint32_t left[4];
    load_matrices(left, a + (m % 2 * 8 + r) * kStride<kDim> + k + m / 2 * 8);
#pragma unroll
    for (int n = 0; n < kTile; n += 16) {
      uint32_t right[4];  // columns n..n+7 at k, k+8; columns n+8..n+15 at k, k+8
      load_matrices(right, b + (n + m / 2 * 8 + r) * kStride<kDim> + k + m % 2 * 8);
      mma(c[n / 8], left, right[0], right[1]);
      mma(c[n / 8 + 1], left, right[2], right[3]);
    }
  }
}

// c (16, kDim) += p (16, 64) b.   p in registers, rounded to bf16; b (64, kDim) in shared memory
template <int kDim>
__device__ __forceinline__ void add_product(Fragment<kDim / 8>& c, const Fragment<kScores>& p,
                                            const Bf16* b) {
  const int lane = threadIdx.x % 32, r = lane % 8, m = lane / 8;
#pragma unroll
  for (int k = 0; k < kTile; k += 16) {
    const float(&low)[4] = p[k / 8];
    const float(&high)[4] = p[k / 8 + 1];
    const uint32_t left[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]),
                              pack(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < kDim; n += 16) {
      uint32_t right[4];
      load_matrices<true>(right, b + (k + m % 2 * 8 + r) * kStride<kDim> + n + m / 2 * 8);
      mma(c[n / 8], left, right[0], right[1]);
      mma(c[n / 8 + 1], left, right[2], right[3]);
    }
  }
}

// 64 rows of `dim` elements into a tile; zeros behind `rows` and behind dim.
template <int kDim>
__device__ __forceinline__ void load_tile(Bf16* to, const Bf16* from, int64_t stride, int rows,
                                          int dim, bool aligned) {
  if (aligned) {
    for (int i = threadIdx.x; i < kTile * kDim / 8; i += kMmaThreads) {
      const int r = i / (kDim / 8), d = i % (kDim / 8) * 8;
      uint4 x = {0, 0, 0, 0};
      if (r < rows && d < dim) x = *reinterpret_cast<const uint4*>(from + r * stride + d);
      *reinterpret_cast<uint4*>(to + r * kStride<kDim> + d) = x;
    }
    return;
  }
  for (int i = threadIdx.x; i < kTile * kDim; i += kMmaThreads) {
    const int r = i / kDim, d = i % kDim;
    to[r * kStride<kDim> + d] =
        r < rows && d < dim ? from[r * stride + d] : __float2bfloat16_rn(0.0f);
  }
}

// The lane's part of one row of a fragment, `high` for row + 8: each element times factor.
template <int kDim>
__device__ __forceinline__ void write_row(Bf16* to, const Fragment<kDim / 8>& c, int high,
                                          float factor, int dim) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int g = 0; g < kDim / 8; ++g) {
    const int d = 8 * g + column;
    if (d < dim) to[d] = __float2bfloat16_rn(c[g][2 * high] * factor);
    if (d + 1 < dim) to[d + 1] = __float2bfloat16_rn(c[g][2 * high + 1] * factor);
  }
}

// Rows of 16-byte pieces: the head dim and every stride a multiple of 8 elements.
inline bool tile_rows_aligned(const void* data, int64_t row, int64_t batch, int dim) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row % 8 == 0 && batch % 8 == 0 &&
         dim % 8 == 0;
}

// Calls run.operator()<padded head dim>().
template <class F>
void for_padded_dim(int dim, F&& run) {
  if (dim <= 32) return run.template operator()<32>();
  if (dim <= 64) return run.template operator()<64>();
  if (dim <= 96) return run.template operator()<96>();
  return run.template operator()<128>();
}

}  // namespace pyramoe::gpu::attention
