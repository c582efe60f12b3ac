// The one door to cuBLAS: dense products of row-major matrices.
//
// f32 products are true fp32 (no TF32); bf16 products sum in fp32. A product of one shape always
// runs the same kernel with the same workspace, so two runs give equal bits and a graph replays
// what the eager run did. Unlike the CPU twin, the kernel may change with the number of rows: a
// row's bits may then differ between batches of different sizes.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyramoe::gpu {

// c (+)= op(a) op(b);   a (m, k), b (k, n), c (m, n) after op, all row-major and dense.
struct Product {
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  bool transpose_a = false, transpose_b = false;
  DType type = DType::f32, c_type = DType::f32;  // of a and b; of c: the same, or f32 over bf16
  bool accumulate = false;
  const void* bias = nullptr;  // (n) in `type`, added to every row
};

// Runs on the compute stream. False where cuBLAS has no such product (odd widths with a bias):
// nothing has been written then.
bool multiply(const Product& product);

}  // namespace pyramoe::gpu
