// Sums down the columns of a matrix, the shape of every bias and norm-weight gradient, as a fixed
// tree: first blocks of rows, each into its own row of an f32 scratch matrix; then the scratch rows
// of a column, added by 32 threads in a fixed order. How rows are cut follows from the shape alone,
// so the result is the same bits in every run and on every chip.
#pragma once

#include "cuda/map.cuh"

namespace pyramoe::gpu {

// Adds rows begin, begin + 8, ... below `end` of N neighbouring columns, in order, eight loads
// under way: the share of one of a block's eight warps.
inline constexpr int kStripWarps = 8, kStripLoads = 8;
template <int N, class T>
__device__ __forceinline__ void sum_strip(const T* x, int64_t begin, int64_t end, int64_t d,
                                          float (&sum)[N]) {
  for (int64_t row = begin; row < end; row += kStripWarps * kStripLoads) {
    Pieces<T, N> in[kStripLoads];
#pragma unroll
    for (int u = 0; u < kStripLoads; ++u) {
      if (row + u * kStripWarps < end) in[u].load(x + (row + u * kStripWarps) * d);
    }
#pragma unroll
    for (int u = 0; u < kStripLoads; ++u) {
      if (row + u * kStripWarps < end) {
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += in[u][i];
      }
    }
  }
}

// y[j] (+)= sum over p of parts[p * width + j], for the d columns of one output; blockIdx.y picks
// it. 32 threads share a column, each with eight loads on their way: there is little else to do.
template <class Y>
__global__ void __launch_bounds__(1024)
    combine_columns_kernel(const float* parts, int count, int64_t width, int64_t d, bool accumulate,
                           Y* first, Y* second) {
  constexpr int kLoads = 8;
  __shared__ float sums[32][33];
  const int64_t j = int64_t{blockIdx.x} * 32 + threadIdx.x;
  const float* from = parts + blockIdx.y * d + j;
  float sum = 0;
  for (int base = static_cast<int>(threadIdx.y); base < count; base += 32 * kLoads) {
    float part[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      const int p = base + 32 * u;
      part[u] = j < d && p < count ? from[p * width] : 0.0f;
    }
#pragma unroll
    for (int u = 0; u < kLoads; ++u) sum += part[u];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  // Each warp now adds one column's 32 numbers, in one butterfly.
  const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.y;
  float total = sums[threadIdx.x][threadIdx.y];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
  Y* y = blockIdx.y == 0 ? first : second;
  if (threadIdx.x == 0 && column < d) {
    y[column] = from_float<Y>(accumulate ? to_float(y[column]) + total : total);
  }
}

inline void combine_columns(const float* parts, int count, int64_t width, bool accumulate,
                            const char* name, Tensor& y) {
  if (!y.defined() || y.numel() == 0) return;
  visit_floating(y.dtype(), name, [&]<class Y>() {
    combine_columns_kernel<<<grid(y.numel(), 32), dim3(32, 32), 0, stream()>>>(
        parts, count, width, y.numel(), accumulate, data<Y>(y), static_cast<Y*>(nullptr));
    PM_LAUNCHED();
  });
}
// Two outputs side by side in parts (count, 2 d); in one launch where both are wanted in one dtype.
inline void combine_columns(const float* parts, int count, int64_t d, bool accumulate,
                            const char* name, Tensor& first, Tensor& second) {
  if (!first.defined() || !second.defined() || first.dtype() != second.dtype()) {
    combine_columns(parts, count, 2 * d, accumulate, name, first);
    combine_columns(parts + d, count, 2 * d, accumulate, name, second);
    return;
  }
  visit_floating(first.dtype(), name, [&]<class Y>() {
    const dim3 blocks(grid(d, 32), 2);
    combine_columns_kernel<<<blocks, dim3(32, 32), 0, stream()>>>(
        parts, count, 2 * d, d, accumulate, data<Y>(first), data<Y>(second));
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::gpu
