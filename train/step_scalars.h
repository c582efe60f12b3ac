// What changes from step to step and is read by kernels on the device: one small f64 tensor, filled
// by one copy at a step's start and read back by one at its end. See core/kernels/adam.h and
// core/kernels/step.h for who reads and writes which entry.
#pragma once

#include "core/tensor.h"

namespace pyramoe::train {

class StepScalars {
 public:
  enum Index { lr = 0, bias1 = 1, bias2 = 2, clip = 3, skip = 4, norm = 5, step = 6, kCount = 7 };

  explicit StepScalars(Device device) : host_(Tensor::zeros({kCount}, DType::f64)) {
    values_ = device == kCpu ? host_ : Tensor::zeros({kCount}, DType::f64, device);
  }
  void set(Index i, double value) { host_.data<double>()[i] = value; }
  double get(Index i) const { return host_.data<double>()[i]; }
  void upload() const { copy(host_, values_); }
  void download() const { copy(values_, host_); }
  Tensor& values() { return values_; }  // on the device

 private:
  static void copy(const Tensor& from, const Tensor& to) {
    if (!from.same_memory(to)) to.copy_from(from);
  }

  Tensor host_, values_;
};

}  // namespace pyramoe::train
