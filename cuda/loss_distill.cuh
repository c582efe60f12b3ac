// What the two forms of distill_in_place share: the call as a kernel sees it, and the gradient of
// one logit.
#pragma once

#include "cuda/loss.cuh"

namespace pyramoe::gpu {

template <class T>
struct DistillRows {
  int64_t rows, v;
  double tokens;
  float temperature, cold;  // cold = 1 / temperature
  const double* weight;     // (2): of cross-entropy, of distillation
  const int32_t* target;
  const T* teacher;
  T* logits;
  float *loss, *distill;
};

// Of a row: d(logit) = ce (p - onehot) + kd (p_cold - q_cold), p of the student and q the teacher.
struct DistillFactors {
  float ce, kd;
  template <class T>
  __device__ DistillFactors(const DistillRows<T>& p, int target)
      : ce(target < 0     ? 0.0f
           : target < p.v ? static_cast<float>(p.weight[0] / p.tokens)
                          : NAN),
        kd(static_cast<float>(p.weight[1] / p.tokens * p.temperature)) {}
  __device__ __forceinline__ float logit(float p, float p_cold, float q_cold) const {
    return ce * p + kd * (p_cold - q_cold);
  }
};

// Row by row from device memory: any width, any alignment.   T: float, Bf16
template <class T>
void distill_from_memory(const DistillRows<T>& p);

}  // namespace pyramoe::gpu
