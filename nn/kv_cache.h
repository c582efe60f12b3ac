// Keys and values of the tokens seen so far, allocated once; lengths live on the device, so one
// decode step has the same shape for any mix of lengths.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace pyramoe::nn {

struct KvCache {
  std::vector<Tensor> layers;  // per block (B, T_max, 2, H, Dh)
  Tensor lengths;              // (B) i32: tokens already in the cache

  static KvCache make(int64_t blocks, int64_t batch, int64_t t_max, int64_t heads, int64_t head_dim,
                      DType dtype, Device device);
  int64_t bytes() const;
};

}  // namespace pyramoe::nn
