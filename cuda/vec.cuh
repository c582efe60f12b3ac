// Loads and stores of 16 bytes a thread, and conversions to and from float.
#pragma once

#include "cuda/launch.cuh"

namespace pyramoe::gpu {

template <class T, int N = 16 / sizeof(T)>
struct alignas(sizeof(T) * N) Vec {
  static constexpr int kSize = N;
  T v[N];
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 2) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

template <class T, int N = 16 / sizeof(T)>
__device__ __forceinline__ Vec<T, N> load_vec(const T* p) {
  return *reinterpret_cast<const Vec<T, N>*>(p);
}
template <class T, int N>
__device__ __forceinline__ void store_vec(T* p, const Vec<T, N>& x) {
  *reinterpret_cast<Vec<T, N>*>(p) = x;
}

// True when rows of `width` elements from p start on 16-byte borders.
template <class T>
bool rows_aligned(const T* p, int64_t width) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 &&
         width * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

}  // namespace pyramoe::gpu
