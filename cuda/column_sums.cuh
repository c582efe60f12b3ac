// Sums down the columns of a matrix, the shape of every bias and norm-weight gradient, as a fixed
// tree: first blocks of rows, each into its own row of an f32 scratch matrix; then the scratch rows
// of a column, added by 32 threads in a fixed order. How rows are cut follows from the shape alone,
// so the result is the same bits in every run and on every chip.
#pragma once

#include "cuda/map.cuh"

namespace pyramoe::gpu {

// y[j] (+)= sum over p of parts[p * width + j], for the d columns of one output.
template <class Y>
__global__ void __launch_bounds__(1024)
    combine_columns_kernel(const float* parts, int count, int64_t width, int64_t d, bool accumulate,
                           Y* y) {
  __shared__ float sums[32][33];
  const int64_t j = int64_t{blockIdx.x} * 32 + threadIdx.x;
  float sum = 0;
  if (j < d) {
#pragma unroll 4
    for (int p = static_cast<int>(threadIdx.y); p < count; p += 32) sum += parts[p * width + j];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  // Each warp now adds one column's 32 numbers, in one butterfly.
  const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.y;
  float total = sums[threadIdx.x][threadIdx.y];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
  if (threadIdx.x == 0 && column < d) {
    y[column] = from_float<Y>(accumulate ? to_float(y[column]) + total : total);
  }
}

// parts (count, width) f32; y (d), any of f32 and bf16, undefined = not wanted.
inline void combine_columns(const float* parts, int count, int64_t width, bool accumulate,
                            const char* name, Tensor& y) {
  if (!y.defined() || y.numel() == 0) return;
  visit_floating(y.dtype(), name, [&]<class Y>() {
    combine_columns_kernel<<<grid(y.numel(), 32), dim3(32, 32), 0, stream()>>>(
        parts, count, width, y.numel(), accumulate, data<Y>(y));
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::gpu
