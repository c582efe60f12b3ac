// GELU and its slope on the device, in GPT-2's tanh form. The same formulas as the CPU twin
// (core/cpu/pack.h): 0.5 (1 + tanh u) is written as 1 / (1 + e^-2u), which keeps its relative
// precision where tanh is near -1.
//
// T is the type the result is rounded to: bf16 keeps 8 bits, so the fast exponential and division
// (21 bits) change nothing; f32 takes the exact ones.
#pragma once

#include "cuda/vec.cuh"

namespace pyramoe::gpu {

template <class T>
struct Gelu {
  static constexpr float kTwice = 1.5957691216057307f;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;

  // e^-2u, u = sqrt(2 / pi) (x + 0.044715 x^3)
  __device__ __forceinline__ static float decay(float x) {
    const float power = x * (x * x * (-kTwice * kCubic) - kTwice);
    return sizeof(T) == 2 ? __expf(power) : expf(power);
  }
  __device__ __forceinline__ static float divide(float a, float b) {
    return sizeof(T) == 2 ? __fdividef(a, b) : a / b;
  }
  __device__ __forceinline__ static float value(float x) { return divide(x, 1.0f + decay(x)); }
  // With s = 1 / (1 + e), 1 - s is e s: no digits are lost where s is near 1. Beyond |x| = 8 the
  // slope is 0 or 1 to the last bit, and e stays finite. A NaN passes through.
  __device__ __forceinline__ static float slope(float x) {
    x = x < -8.0f ? -8.0f : x;
    x = x > 8.0f ? 8.0f : x;
    const float e = decay(x), s = divide(1.0f, 1.0f + e);
    return s + s * (e * s) * (x * (x * x * (3 * kTwice * kCubic) + kTwice));
  }
};

}  // namespace pyramoe::gpu
