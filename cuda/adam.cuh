// What optimizer kernels share: the step's numbers, read on the device, and AdamW of one element.
//
// The numbers are the same for all elements: one thread of a block turns them into floats while
// other blocks move memory, so this costs nothing. The order of operations is that of the CPU twin
// and of torch.optim.
#pragma once

#include "core/kernels/adam.h"
#include "cuda/map.cuh"

namespace pyramoe::gpu {

inline constexpr int kAdamThreads = 256;

// What one element's update needs of the step.
struct StepNow {
  float clip, decay, step, root, inverse_root, lr;
  bool skip;
};

// By all threads of a block: one turns the scalars into floats, in double.
__device__ __forceinline__ StepNow read_scalars(const double* s, double weight_decay) {
  __shared__ StepNow shared;
  if (threadIdx.x == 0) {
    const double root = sqrt(s[2]);
    shared = {static_cast<float>(s[3]),
              static_cast<float>(1 - s[0] * weight_decay),
              static_cast<float>(s[0] / s[1]),
              static_cast<float>(root),
              static_cast<float>(1 / root),
              static_cast<float>(s[0]),
              s[4] != 0};
  }
  __syncthreads();
  return shared;
}

__device__ __forceinline__ float square_root(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float quotient(float x, float y) {
  float q;
  asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(q) : "f"(x), "f"(y));
  return q;
}

// kFast: division and square root of 22 bits, for results that are rounded to bf16.
template <bool kFast = false>
struct AdamW {
  float b2, to_m, to_v, eps;
  // g = gradient; m, v, w are updated.
  __device__ void operator()(const StepNow& now, float g, float& m, float& v, float& w) const {
    g *= now.clip;
    m = m + (g - m) * to_m;
    v = v * b2 + g * g * to_v;
    if constexpr (kFast) {
      w = w * now.decay - now.step * quotient(m, square_root(v) * now.inverse_root + eps);
    } else {
      w = w * now.decay - now.step * (m / (sqrtf(v) / now.root + eps));
    }
  }
};

template <bool kFast = false>
AdamW<kFast> adamw_of(const kernels::AdamWOptions& options) {
  return {static_cast<float>(options.beta2), static_cast<float>(1 - options.beta1),
          static_cast<float>(1 - options.beta2), static_cast<float>(options.eps)};
}

}  // namespace pyramoe::gpu
