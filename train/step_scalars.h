// What changes from step to step and is read by kernels on the device: one small f64 tensor,
// filled once a step. See core/kernels/adam.h for who reads which entry.
#pragma once

#include "core/tensor.h"

namespace pyramoe::train {

struct StepScalars {
  enum Index { lr = 0, bias1 = 1, bias2 = 2, clip = 3, skip = 4, kCount = 5 };
  Tensor values = Tensor::zeros({kCount}, DType::f64);
  void set(Index i, double value) { values.data<double>()[i] = value; }
  double get(Index i) const { return values.data<double>()[i]; }
};

}  // namespace pyramoe::train
