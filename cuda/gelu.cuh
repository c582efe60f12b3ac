// GELU and its slope on the device, in GPT-2's tanh form. The same formulas as the CPU twin
// (core/cpu/pack.h): 0.5 (1 + tanh u) is written as s = 1 / (1 + e^-2u), which keeps its relative
// precision where tanh is near -1.
//
// T is the type the result is rounded to. f32 takes the exact exponential and division; bf16 keeps
// 8 bits, so the hardware's (21 bits) change nothing, and the two functions share all they can:
// twelve instructions for both. Spelled out in single operations, so that every kernel gets equal
// bits, whatever the compiler would have fused.
#pragma once

#include "cuda/vec.cuh"

namespace pyramoe::gpu {

struct GeluBoth {
  float value, slope;
};

template <class T>
struct Gelu {
  static constexpr float kTwice = 1.5957691216057307f;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;

  // e^-2u, u = sqrt(2 / pi) (x + 0.044715 x^3)
  __device__ __forceinline__ static float decay(float x) {
    return expf(x * (x * x * (-kTwice * kCubic) - kTwice));
  }
  __device__ __forceinline__ static float value(float x) { return x / (1.0f + decay(x)); }
  // With s = 1 / (1 + e), 1 - s is e s: no digits are lost where s is near 1. Beyond |x| = 8 the
  // slope is 0 or 1 to the last bit, and e stays finite. A NaN passes through.
  __device__ __forceinline__ static float slope(float x) {
    x = x < -8.0f ? -8.0f : x;
    x = x > 8.0f ? 8.0f : x;
    const float e = decay(x), s = 1.0f / (1.0f + e);
    return s + s * (e * s) * (x * (x * x * (3 * kTwice * kCubic) + kTwice));
  }
  __device__ __forceinline__ static GeluBoth both(float x) { return {value(x), slope(x)}; }
};

template <>
struct Gelu<Bf16> {
  static constexpr float kTwice = Gelu<float>::kTwice, kCubic = Gelu<float>::kCubic;
  static constexpr float kLog2e = 1.4426950408889634f;

  // slope = s + s (1 - s) x (2u)'. x^2 ends at 128, where s is 0 or 1 already: no infinity meets
  // a 0.
  __device__ __forceinline__ static GeluBoth both(float x) {
    const float square = fminf(__fmul_rn(x, x), 128.0f);
    const float power =
        __fmul_rn(x, __fmaf_rn(square, -kTwice * kCubic * kLog2e, -kTwice * kLog2e));
    float e, s;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(power));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(__fadd_rn(1.0f, e)));
    const float steep = __fmul_rn(x, __fmaf_rn(square, 3 * kTwice * kCubic, kTwice));
    return {__fmul_rn(x, s), __fmaf_rn(__fmaf_rn(-s, s, s), steep, s)};
  }
  __device__ __forceinline__ static float value(float x) { return both(x).value; }
  __device__ __forceinline__ static float slope(float x) { return both(x).slope; }
};

}  // namespace pyramoe::gpu
