// What the loss kernels share: e^x at the precision a dtype deserves, and a sum of exponentials
// kept together with the largest element met so far.
#pragma once

#include "cuda/map.cuh"
#include "cuda/reduce.cuh"

namespace pyramoe::gpu {

inline constexpr float kLog2E = 1.4426950408889634f;

// 2^x by the special-function unit, 22 bits; results below 2^-126 are zero.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// e^(factor x - shift) for x of type T. bf16 logits have 8 bits: one multiply-add and the
// special-function unit serve them; f32 takes the exact function.
template <class T>
struct Exponential {
  float factor, shift;
  __device__ __forceinline__ Exponential(float f, float s) : factor(f), shift(s) {
    if constexpr (sizeof(T) == 2) factor *= kLog2E, shift *= kLog2E;
  }
  __device__ __forceinline__ float operator()(float x) const {
    if constexpr (sizeof(T) == 2) return exp2_fast(fmaf(x, factor, -shift));
    return expf(fmaf(x, factor, -shift));
  }
};

// sum = sum of e^(x - top) over what was met, top the largest of it (x already times the factor).
// One pass over a row is enough: where the top rises, the sum so far is scaled down.
struct OnlineSum {
  float top = -INFINITY, sum = 0;

  // While nothing but -inf was met, differences to the top would be NaN.
  __device__ static float finite(float top) { return top == -INFINITY ? 0.0f : top; }

  // Takes N numbers in; x(i) gives number i.
  template <class T, int N, class X>
  __device__ __forceinline__ void add(float factor, const X& x) {
    float most = x(0);
#pragma unroll
    for (int i = 1; i < N; ++i) most = fmaxf(most, x(i));
    most *= factor;
    if (most > top) {
      sum *= expf(top - most);  // the first time: 0 times 0
      top = most;
    }
    const Exponential<T> e(factor, finite(top));
    float part = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) part += e(x(i));
    sum += part;
  }
  // log(sum of e^x) over all threads of the block.
  __device__ __forceinline__ float log_sum_exp(float2* shared) const {
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    float most = warp_max(top);
    float total = warp_sum(sum * expf(top - finite(most)));
    if (lane == 0) shared[warp] = {most, total};
    __syncthreads();
    const float2 other = lane < blockDim.x / kWarp ? shared[lane] : float2{-INFINITY, 0};
    most = warp_max(other.x);
    total = warp_sum(other.y * expf(other.x - finite(most)));
    return most + logf(total);
  }
};

}  // namespace pyramoe::gpu
