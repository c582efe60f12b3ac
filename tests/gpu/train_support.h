// What tests of whole training steps on a GPU share.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "tests/gpu/support.h"
#include "tests/train/support.h"

namespace pyramoe::gputest {

// Unclipped gradients by parameter name, on the CPU.
inline std::map<std::string, Tensor> gradients(train::Trainer& trainer) {
  std::map<std::string, Tensor> all;
  for (const train::FlatGroup& group : trainer.buffers().groups()) {
    for (const train::FlatSlot& slot : group.slots) {
      all[slot.parameter->name] = slot.parameter->var.grad().to(kCpu);
    }
  }
  return all;
}

// The largest magnitude.
inline double largest(const Tensor& x) {
  double most = 0;
  for (const double v : x.to_vector()) most = std::max(most, std::abs(v));
  return most;
}

}  // namespace pyramoe::gputest
