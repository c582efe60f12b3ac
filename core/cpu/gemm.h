// The one seam through which every dense product on a CPU goes.
//
// Our own packed matrix product. Element (i, j) is summed over k = 0, 1, 2, … in one chain of fused
// multiply-adds, whatever the shape, tile, thread or instruction set; so a row's result never
// depends on the rows beside it, and a product with one row equals that row of a product with
// thousands. bf16 is widened while it is packed; sums are kept in f32 (f64 for f64).
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace pyramoe::gemm {

// C (M, N) = op(A) (M, K) · op(B) (K, N); then + bias, then gelu. A row-major matrix with leading
// dimension ld: element (i, j) at [i * ld + j]; transposed ones are stored (K, M) and (N, K).
// T, TC: double double, float float, BFloat16 BFloat16, BFloat16 float.
template <class T, class TC = T>
struct Product {
  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  int64_t lda = 0;
  bool transpose_a = false;
  const T* b = nullptr;
  int64_t ldb = 0;
  bool transpose_b = false;
  TC* c = nullptr;
  int64_t ldc = 0;
  bool accumulate = false;  // the chain of each element starts from C instead of zero
  const T* bias = nullptr;  // (N), added to every row after the sum
  TC* gelu = nullptr;       // gelu(C), laid out like C, which keeps the value before
};

template <class T, class TC = T>
void multiply(const Product<T, TC>& product);

// Independent products, spread over all threads together: small ones next to each other cost no
// more than one large one. Their outputs must not overlap.
template <class T, class TC = T>
void multiply_all(std::span<const Product<T, TC>> products);

}  // namespace pyramoe::gemm
