// What a grouped product does with a finished sum: store it, or pass it through GELU or its slope.
//
// The sum is rounded to C's type first and GELU is taken of what is stored, so that a backward pass
// that computes gelu(pre) again gets the forward pass's bits.
#pragma once

#include "cuda/gelu.cuh"
#include "cuda/grouped.h"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::grouped {

// One element; the arguments are the places of this element, extra may be null.
template <class T>
__device__ __forceinline__ void finish_one(Finish finish, float sum, T* c, const T* pre, T* extra) {
  const T rounded = from_float<T>(sum);
  if (finish == Finish::gelu_backward) {
    const float x = to_float(*pre);
    *c = from_float<T>(to_float(rounded) * Gelu<T>::slope(x));
    if (extra) *extra = from_float<T>(Gelu<T>::value(x));
    return;
  }
  *c = rounded;
  if (finish == Finish::gelu) *extra = from_float<T>(Gelu<T>::value(to_float(rounded)));
}

}  // namespace pyramoe::gpu::grouped
