// Products of very few rows, as decoding has them: bound by reading the weights.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cuda/grouped.h"

namespace pyramoe::gpu {

// y = x w^T + bias, or with `gelu`: pre = x w^T + bias (where wanted) and y = gelu of it.
//   x (rows, k), w (m, k), bias (m) or null, y and pre (rows, m); all of one dtype
struct FewRows {
  int64_t rows = 0, m = 0, k = 0;
  const void* x = nullptr;
  const void* w = nullptr;
  const void* bias = nullptr;
  void* y = nullptr;
  void* pre = nullptr;
  bool gelu = false;
  DType type = DType::f32;
};

// Runs on the compute stream. False for more than four rows and for rows of x or w that do not
// start on 16-byte borders: nothing has been written then.
bool few_rows(const FewRows& product);

// The same for a grouped forward product of up to eight rows: each row reads its expert's weight.
bool few_rows(const grouped::Product& product);

}  // namespace pyramoe::gpu
