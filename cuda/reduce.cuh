// Sums and maxima over a warp and a block, always in one order: equal bits in every run.
#pragma once

#include "cuda/launch.cuh"

namespace pyramoe::gpu {

inline constexpr int kWarp = 32;

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
template <class T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    x = max(x, __shfl_xor_sync(0xffffffffu, x, step));
  }
  return x;
}

// Over all threads of the block (a multiple of 32, at most 1024); every thread gets the result.
// `shared` holds 32 values and may be used again after the next __syncthreads().
template <class T>
__device__ __forceinline__ T block_sum(T x, T* shared) {
  x = warp_sum(x);
  if (blockDim.x == kWarp) return x;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarp;
  return warp_sum(lane < blockDim.x / kWarp ? shared[lane] : T{});
}
template <class T>
__device__ __forceinline__ T block_max(T x, T* shared) {
  x = warp_max(x);
  if (blockDim.x == kWarp) return x;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarp;
  return warp_max(shared[lane < blockDim.x / kWarp ? lane : 0]);
}

}  // namespace pyramoe::gpu
