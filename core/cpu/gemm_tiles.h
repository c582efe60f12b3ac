// The inner kernels of the matrix product, written once over native registers (simd_register.h).
//
// Included by one .cpp per instruction set. A register tile keeps rows x 2 registers of sums and
// meets one broadcast of A and two registers of B per row and k: enough independent chains to keep
// both multipliers busy, few enough loads to leave them the bottleneck.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#include "core/cpu/gemm_kernels.h"
#include "core/cpu/simd_transpose.h"

namespace pyramoe::gemm {
inline namespace PM_ISA {

using simd::Reg;

#if defined(PM_ISA_AVX512)
constexpr int kTileRows = 14;
#elif defined(PM_ISA_AVX2)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif

// Into the second-level cache: more such requests can be under way than into the first level, which
// doubles the rate at which strided reads come from memory.
inline void fetch_soon(const void* p) { __builtin_prefetch(p, 0, 2); }

// On to the next column of lines; behind the last one stays where it is.
inline void turn(Ahead& ahead) {
  ahead.at += 64 - ahead.rows * ahead.pitch;
  ahead.left = ahead.rows;
  if (--ahead.columns <= 0) {
    ahead.at -= 64;
    ahead.pitch = 0;
  }
}

template <class T, int Rows>
void tile(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc,
          int64_t cols, bool add, Ahead& ahead) {
  using R = Reg<T>;
  constexpr int w = R::lanes;
  typename R::V sum[Rows][2];
  Ahead next = ahead;
  const bool whole = cols == 2 * w;
  const int64_t left = cols < w ? cols : w, right = cols - left;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    __builtin_prefetch(c + i * ldc, 1);
    __builtin_prefetch(c + i * ldc + cols - 1, 1);
    sum[i][0] = sum[i][1] = R::set(T(0));
  }
  if (add) {
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      sum[i][0] = whole ? R::load(c + i * ldc) : R::load(c + i * ldc, left);
      sum[i][1] = whole ? R::load(c + i * ldc + w) : R::load(c + i * ldc + left, right);
    }
  }
  for (int64_t p = 0; p < k; ++p) {
    const typename R::V b0 = R::load(b), b1 = R::load(b + w);
    fetch_soon(next.at);
    next.at += next.pitch;
    if (--next.left == 0) turn(next);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const typename R::V x = R::set(a[i]);
      sum[i][0] = R::fma(x, b0, sum[i][0]);
      sum[i][1] = R::fma(x, b1, sum[i][1]);
    }
    a += lda;
    b += ldb;
  }
  ahead = next;
  if (whole) {
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      R::store(c + i * ldc, sum[i][0]);
      R::store(c + i * ldc + w, sum[i][1]);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      R::store(c + i * ldc, sum[i][0], left);
      R::store(c + i * ldc + left, sum[i][1], right);
    }
  }
}

// The width a packed row is filled to: its stride where that is whole registers.
template <class R>
int64_t filled(int64_t width, int64_t stride) {
  return stride % R::lanes == 0 ? stride : (width + R::lanes - 1) / R::lanes * R::lanes;
}

// How far packing looks ahead: its strided reads are too short for the hardware to guess.
constexpr int64_t kRowsAhead = 16, kStepsAhead = 8;
template <class S>
constexpr int64_t kLine = static_cast<int64_t>(64 / sizeof(S));  // elements in a cache line

template <class T, class S>
void pack_across(const S* x, int64_t ld, int64_t width, int64_t k, T* out, int64_t stride) {
  using R = Reg<T>;
  const int64_t whole = width / R::lanes * R::lanes, end = filled<R>(width, stride);
  for (int64_t p = 0; p < k; ++p, x += ld, out += stride) {
    for (int64_t j = 0; j < width; j += kLine<S>) fetch_soon(x + kRowsAhead * ld + j);
    int64_t j = 0;
    for (; j < whole; j += R::lanes) R::store(out + j, R::load(x + j));
    if (j < width) {
      R::store(out + j, R::load(x + j, width - j));
      j += R::lanes;
    }
    for (; j < end; j += R::lanes) R::store(out + j, R::set(T(0)));
  }
}

// The lines a walk over square blocks will need some steps later, one for each register of a block.
template <class S>
struct Later {
  const S* at;
  int64_t pitch;
};

// One square block: `rows` rows of x, `depth` elements of each, turned.
template <class T, class S>
inline void load_turned(const S* x, int64_t ld, int64_t rows, int64_t depth, Later<S> later,
                        typename Reg<T>::V (&block)[Reg<T>::lanes]) {
  using R = Reg<T>;
  if (rows >= R::lanes && depth >= R::lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < R::lanes; ++i) {
      fetch_soon(later.at + i * later.pitch);
      block[i] = R::load(x + i * ld);
    }
  } else {
    const int64_t n = depth < R::lanes ? depth : R::lanes;
#pragma GCC unroll 16
    for (int i = 0; i < R::lanes; ++i) {
      if (i < rows) fetch_soon(later.at + i * later.pitch);
      block[i] = i < rows ? R::load(x + i * ld, n) : R::set(T(0));
    }
  }
  simd::transpose<T>(block);
}

// A walk along k, then `down` to the next rows: the block kStepsAhead after p.
template <class S>
inline Later<S> blocks_ahead(const S* x, int64_t ld, int64_t p, int64_t k, int64_t down,
                             int64_t step) {
  const int64_t q = p + kStepsAhead * step;
  return {q < k ? x + q : x + down + (q - k < k ? q - k : 0), ld};
}

// The same where rows touch and are short: memory in its own order, one row of blocks ahead.
template <class S>
inline Later<S> rows_ahead(const S* x, int64_t ld, int64_t p, int64_t k, int64_t step) {
  constexpr int64_t short_row = 16384 / sizeof(S);
  if (ld == k && k <= short_row) return {x + step * ld + p * step, step};
  return blocks_ahead(x, ld, p, k, step * ld, step);
}

template <class T, class S>
void pack_along(const S* x, int64_t ld, int64_t width, int64_t k, T* out, int64_t stride) {
  using R = Reg<T>;
  constexpr int w = R::lanes;
  const int64_t end = filled<R>(width, stride);
  for (int64_t j = 0; j < end; j += w, x += w * ld) {
    const int64_t rows = width - j;
    const int64_t down = (rows < w ? rows : w) * ld;
    for (int64_t p = 0; p < k; p += w) {
      const int64_t depth = k - p < w ? k - p : w;
      typename R::V block[w];
      load_turned<T>(x + p, ld, rows, depth, blocks_ahead(x, ld, p, k, down, w), block);
      T* to = out + p * stride + j;
      if (depth == w && (j == 0 || j + w <= stride)) {
#pragma GCC unroll 16
        for (int i = 0; i < w; ++i) R::store(to + i * stride, block[i]);
      } else if (j == 0 || j + w <= stride) {
        for (int i = 0; i < depth; ++i) R::store(to + i * stride, block[i]);
      } else {  // the next row's first columns are there already
        for (int i = 0; i < depth; ++i) R::store(to + i * stride, block[i], stride - j);
      }
    }
  }
}

// Streams B by rows, eight at a time, with the sums of all columns in cache.
template <class T, class S, int Rows>
void slim_across(int64_t k, const T* a, const S* b, int64_t ldb, T* c, int64_t ldc, int64_t cols,
                 bool add) {
  using R = Reg<T>;
  constexpr int w = R::lanes, deep = 8;
  if (!add) {
    for (int i = 0; i < Rows; ++i)
      std::memset(c + i * ldc, 0, static_cast<size_t>(cols) * sizeof(T));
  }
  for (int64_t p = 0; p < k; p += deep, b += deep * ldb, a += deep * Rows) {
    const int64_t depth = k - p;
    for (int64_t j = 0; j < cols; j += w) {
      const int64_t width = cols - j;
      if (width >= w && depth >= deep) {
        typename R::V x[deep];
#pragma GCC unroll 8
        for (int q = 0; q < deep; ++q) {
          fetch_soon(b + (q + kRowsAhead) * ldb + j);
          x[q] = R::load(b + q * ldb + j);
        }
        for (int i = 0; i < Rows; ++i) {
          typename R::V sum = R::load(c + i * ldc + j);
#pragma GCC unroll 8
          for (int q = 0; q < deep; ++q) sum = R::fma(R::set(a[q * Rows + i]), x[q], sum);
          R::store(c + i * ldc + j, sum);
        }
        continue;
      }
      const int64_t n = width < w ? width : w;
      for (int i = 0; i < Rows; ++i) {
        typename R::V sum = R::load(c + i * ldc + j, n);
        for (int q = 0; q < deep && q < depth; ++q) {
          sum = R::fma(R::set(a[q * Rows + i]), R::load(b + q * ldb + j, n), sum);
        }
        R::store(c + i * ldc + j, sum, n);
      }
    }
  }
}

// Reads as many rows of B as a register has lanes and turns them in registers, so that each lane
// sums its own column in the order of k.
template <class T, class S, int Rows>
void slim_along(int64_t k, const T* a, const S* b, int64_t ldb, T* c, int64_t ldc, int64_t cols,
                bool add) {
  using R = Reg<T>;
  constexpr int w = R::lanes;
  for (int64_t j = 0; j < cols; j += w, b += w * ldb) {
    const int64_t width = cols - j < w ? cols - j : w;
    typename R::V sum[Rows];
    for (int i = 0; i < Rows; ++i) {
      sum[i] = add ? R::load(c + i * ldc + j, width) : R::set(T(0));
    }
    for (int64_t p = 0; p < k; p += w) {
      typename R::V block[w];
      load_turned<T>(b + p, ldb, width, k - p, rows_ahead(b, ldb, p, k, w), block);
      const T* x = a + p * Rows;
      if (k - p >= w) {
#pragma GCC unroll 16
        for (int q = 0; q < w; ++q) {
          for (int i = 0; i < Rows; ++i) sum[i] = R::fma(R::set(x[q * Rows + i]), block[q], sum[i]);
        }
      } else {
        for (int q = 0; q < k - p; ++q) {
          for (int i = 0; i < Rows; ++i) sum[i] = R::fma(R::set(x[q * Rows + i]), block[q], sum[i]);
        }
      }
    }
    for (int i = 0; i < Rows; ++i) R::store(c + i * ldc + j, sum[i], width);
  }
}

template <class T, int... I>
void fill_tiles(Kernels<T>& table, std::integer_sequence<int, I...>) {
  ((table.tile[I + 1] = &tile<T, I + 1>), ...);
}
template <class T, int... I>
void fill_slim(Kernels<T>& table, std::integer_sequence<int, I...>) {
  ((table.slim_across[I + 1] = &slim_across<T, T, I + 1>), ...);
  ((table.slim_along[I + 1] = &slim_along<T, T, I + 1>), ...);
  if constexpr (std::is_same_v<T, float>) {
    ((table.slim_across_bf16[I + 1] = &slim_across<T, BFloat16, I + 1>), ...);
    ((table.slim_along_bf16[I + 1] = &slim_along<T, BFloat16, I + 1>), ...);
  }
}

template <class T>
Kernels<T> make_kernels() {
  Kernels<T> table{};
  table.tile_rows = kTileRows;
  table.tile_cols = 2 * Reg<T>::lanes;
  fill_tiles(table, std::make_integer_sequence<int, kTileRows>());
  fill_slim(table, std::make_integer_sequence<int, kMaxSlimRows>());
  table.pack_across = &pack_across<T, T>;
  table.pack_along = &pack_along<T, T>;
  if constexpr (std::is_same_v<T, float>) {
    table.pack_across_bf16 = &pack_across<T, BFloat16>;
    table.pack_along_bf16 = &pack_along<T, BFloat16>;
  }
  return table;
}

}  // namespace PM_ISA
}  // namespace pyramoe::gemm
