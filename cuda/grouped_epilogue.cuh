// From wgmma's registers to global memory: the end of a tile of a grouped product.
//
// A warp holds 16 rows x 256 columns, two neighbouring columns a register pair: stores from there
// would touch eight rows at a time. So each warp passes lines of 128 bytes through 2 KiB of shared
// memory of its own (no other warp waits) and then reads and writes 16 bytes a lane, eight lanes a
// line: whole 128-byte lines of global memory. Bias, GELU and accumulation happen on the way out.
#pragma once

#include "cuda/grouped_finish.cuh"
#include "cuda/hopper.cuh"

namespace pyramoe::gpu::grouped {

constexpr int kTileRows = 128, kTileColumns = 256;
constexpr int kStagingBytes = 16 * 128;  // 16 lines of a warp

// Byte offset of 16-byte chunk `chunk` of line `line`. The order of chunks within a line is
// shuffled so that eight lines of one chunk (stmatrix), two chunks of four lines (pairs of f32) and
// one whole line (the way out) each meet all 32 banks once.
__device__ __forceinline__ int staging_offset(int line, int chunk) {
  return line * 128 + ((chunk ^ ((line & 3) << 1 | (line >> 2 & 1))) << 4);
}

// Columns [c, c + 64) of the warp's sums, as bf16.
__device__ __forceinline__ void stage(const float* sum, uint8_t* staging, Bf16) {
  const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8;
  const int line = matrix % 2 * 8 + lane % 8;  // matrices: lines 0-7, 8-15, then the next chunk's
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const float *x = sum + 4 * j, *y = x + 4;
    hopper::store_matrices(hopper::shared_address(staging + staging_offset(line, j + matrix / 2)),
                           hopper::pack_bf16(x[0], x[1]), hopper::pack_bf16(x[2], x[3]),
                           hopper::pack_bf16(y[0], y[1]), hopper::pack_bf16(y[2], y[3]));
  }
}
// Columns [c, c + 32), as f32.
__device__ __forceinline__ void stage(const float* sum, uint8_t* staging, float) {
  const int lane = static_cast<int>(threadIdx.x) % 32, line = lane / 4, pair = lane % 4;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int offset = staging_offset(line + 8 * half, 2 * j + pair / 2) + pair % 2 * 8;
      *reinterpret_cast<float2*>(staging + offset) =
          make_float2(sum[4 * j + 2 * half], sum[4 * j + 2 * half + 1]);
    }
  }
}

template <class T>
__device__ __forceinline__ void add_bias(float (&sum)[128], const T* bias, int width) {
  const int pair = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    const int column = 8 * j + pair;
    const float b0 = column < width ? to_float(bias[column]) : 0.0f;
    const float b1 = column + 1 < width ? to_float(bias[column + 1]) : 0.0f;
    sum[4 * j] += b0, sum[4 * j + 1] += b1, sum[4 * j + 2] += b0, sum[4 * j + 3] += b1;
  }
}

// The 16 bytes of C at `i`, from their sums x (already rounded to C's type).
template <Form F, Finish E, class T>
__device__ __forceinline__ void finish_vec(const Product& p, int64_t i, Vec<T> x,
                                           const Vec<T>& pre) {
  T* c = static_cast<T*>(p.c) + i;
  if constexpr (F == Form::dw) {
    if (p.accumulate) {
      const Vec<T> old = load_vec(c);
#pragma unroll
      for (int j = 0; j < x.kSize; ++j)
        x.v[j] = from_float<T>(to_float(x.v[j]) + to_float(old.v[j]));
    }
    store_vec(c, x);
  } else if constexpr (E == Finish::plain) {
    store_vec(c, x);
  } else {
    Vec<T> y;
#pragma unroll
    for (int j = 0; j < x.kSize; ++j) {
      const float z = to_float(E == Finish::gelu ? x.v[j] : pre.v[j]);
      y.v[j] = from_float<T>(Gelu<T>::value(z));
      if (E == Finish::gelu_backward) x.v[j] = from_float<T>(to_float(x.v[j]) * Gelu<T>::slope(z));
    }
    store_vec(c, x);
    store_vec(static_cast<T*>(p.extra) + i, y);
  }
}

// The warp's 16 lines from `row` on (those below `end`), 256 columns from `column` on.
template <Form F, Finish E, class T>
__device__ __forceinline__ void store_tile(const Product& p, float (&sum)[128], uint8_t* staging,
                                           int64_t row, int64_t end, int column, int expert) {
  constexpr int lines = 4, width = 128 / sizeof(T), lanes = 8;  // lines a pass, elements a line
  const auto columns = static_cast<int>(F == Form::forward ? p.m : p.k);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (F == Form::forward) {
    if (p.bias) {
      add_bias(sum, static_cast<const T*>(p.bias) + expert * p.m + column, columns - column);
    }
  }
  const int line = lane / lanes, chunk = lane % lanes;
  const int64_t corner =
      (row + line) * columns + column + chunk * (16 / static_cast<int>(sizeof(T)));
  const int left = columns - column - chunk * (16 / static_cast<int>(sizeof(T)));
#pragma unroll
  for (int part = 0; part < kTileColumns / width; ++part) {
    bool in[16 / lines];
    Vec<T> pre[16 / lines];
#pragma unroll
    for (int i = 0; i < 16 / lines; ++i) {  // under way while the sums are staged
      in[i] = row + line + lines * i < end && part * width < left;
      if (E == Finish::gelu_backward && in[i]) {
        pre[i] = load_vec(static_cast<const T*>(p.pre) + corner + part * width +
                          static_cast<int64_t>(lines * i) * columns);
      }
    }
    stage(sum + part * width / 2, staging, T{});
    __syncwarp();
    Vec<T> x[16 / lines];
#pragma unroll
    for (int i = 0; i < 16 / lines; ++i) {
      x[i] =
          load_vec(reinterpret_cast<const T*>(staging + staging_offset(line + lines * i, chunk)));
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 / lines; ++i) {
      const int64_t at = corner + part * width + static_cast<int64_t>(lines * i) * columns;
      if (in[i]) finish_vec<F, E, T>(p, at, x[i], pre[i]);
    }
  }
}

}  // namespace pyramoe::gpu::grouped
