// The table of inner kernels of the matrix product, one table per instruction set.
//
// gemm_tiles.h is the one source of all of them; gemm_base.cpp and gemm_avx512.cpp compile it with
// different flags. Every kernel sums an element over k = 0, 1, 2, … with one fused multiply-add
// each, starting from zero or from what C holds, so the table in use never shows in the bits.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyramoe::gemm {

constexpr int kMaxTileRows = 14;
constexpr int kMaxSlimRows = 4;  // products with so few rows stream B instead of packing it

// Cache lines that a later step will read, fetched one with every k of a register tile: `columns`
// columns of lines, `rows` lines in each, `pitch` bytes apart.
struct Ahead {
  const char* at = nullptr;
  int64_t pitch = 0, rows = 0, left = 0, columns = 0;
};

// T is the type sums are kept in: float or double.
template <class T>
struct Kernels {
  int tile_rows, tile_cols;  // the largest register tile

  // c (rows, cols) = a b, or += when `add`; cols <= tile_cols.
  //   a  row p holds element (0..rows, p), rows `lda` apart: packed, or a row-major transpose
  //   b  row p holds element (p, 0..tile_cols), rows `ldb` apart; all tile_cols are read
  using Tile = void (*)(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                        int64_t ldc, int64_t cols, bool add, Ahead& ahead);
  Tile tile[kMaxTileRows + 1];  // by rows, from 1

  // Copies (k, width) of x into rows `stride` apart, widening bf16. A stride of whole registers is
  // zero-filled behind width; with any other, out needs 16 elements of slack at its end.
  //   across: x row p holds element (p, 0..width);   along: x row j holds element (0..k, j)
  template <class S>
  using Pack = void (*)(const S* x, int64_t ld, int64_t width, int64_t k, T* out, int64_t stride);
  Pack<T> pack_across, pack_along;
  Pack<BFloat16> pack_across_bf16, pack_along_bf16;  // null where T is double

  // c (rows, cols) (+)= a b for at most kMaxSlimRows rows, b read in place and once.
  //   a      row p holds element (0..rows, p), rows `rows` apart
  //   across: b row p holds element (p, 0..cols);   along: b row j holds element (0..k, j)
  template <class S>
  using Slim = void (*)(int64_t k, const T* a, const S* b, int64_t ldb, T* c, int64_t ldc,
                        int64_t cols, bool add);
  Slim<T> slim_across[kMaxSlimRows + 1], slim_along[kMaxSlimRows + 1];
  Slim<BFloat16> slim_across_bf16[kMaxSlimRows + 1], slim_along_bf16[kMaxSlimRows + 1];
};

// What this machine runs best.
template <class T>
const Kernels<T>& kernels();

// Switches both types to the table called "avx512" or "base"; false where it is not to be had.
bool use_kernels(const char* name);

namespace detail {
template <class T>
const Kernels<T>& base_kernels();
template <class T>
const Kernels<T>& avx512_kernels();
}  // namespace detail

}  // namespace pyramoe::gemm
