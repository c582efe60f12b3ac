// The grouped products on any GPU from sm_80 on, for any shape: the plain path, and the fallback of
// grouped_hopper.cu.
//
// One block computes one tile of C. bf16: 128 x 128, mma.sync m16n8k16 fed by ldmatrix; shared
// memory mirrors global memory, and an operand whose k does not run fastest is transposed by
// ldmatrix on the way to registers, so no form needs a copy. f32: 64 x 64 with plain fused
// multiply-adds. Rows and columns outside a segment count as zero and are never read.
#include "cuda/grouped.cuh"
#include "cuda/grouped.h"
#include "cuda/grouped_finish.cuh"
#include "cuda/launch.cuh"
#include "cuda/mma.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::grouped {
namespace {

constexpr int kThreads = 256;

// One tile's piece of the problem: C (rows, columns) at c, A and B with their k.
template <class T>
struct Piece {
  const T *a, *b;
  int64_t lda, ldb, ldc;
  int64_t rows, columns, depth;  // what is left of C from here on, and all of k
  int64_t row0, column0;         // of C's tile, within the expert
  int64_t expert, first;         // first: the expert's first segment row
};

// The tile of this block, or false if there is none. A and B point at the tile's first row or
// column; which index runs fastest is the form's business (k_fast).
template <Form F, int Tile, class T>
__device__ bool find_piece(const Product& p, int* before, Piece<T>& t) {
  const int experts = static_cast<int>(p.experts);
  const T *a = static_cast<const T*>(p.a), *b = static_cast<const T*>(p.b);
  t.column0 = static_cast<int64_t>(blockIdx.x) * Tile;
  if constexpr (F == Form::dw) {
    t.expert = blockIdx.z, t.row0 = static_cast<int64_t>(blockIdx.y) * Tile;
    t.first = p.offsets[t.expert];
    t.depth = p.offsets[t.expert + 1] - t.first;
    t.rows = p.m - t.row0, t.columns = p.k - t.column0;
    t.lda = p.m, t.ldb = t.ldc = p.k;
    t.a = a + t.first * p.m + t.row0, t.b = b + t.first * p.k + t.column0;
    return true;
  }
  if (threadIdx.x < 32) count_row_tiles(p.offsets, experts, Tile, before);
  __syncthreads();
  const int tile = static_cast<int>(blockIdx.y);
  if (tile >= before[experts]) return false;
  int low = 0, high = experts;  // the last expert with before[e] <= tile that has rows
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (before[middle] <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  t.expert = low, t.first = p.offsets[low];
  t.row0 = static_cast<int64_t>(tile - before[low]) * Tile;
  t.rows = p.offsets[low + 1] - t.first - t.row0;
  const bool forward = F == Form::forward;
  const int64_t width = forward ? p.m : p.k;
  t.depth = forward ? p.k : p.m;
  t.columns = width - t.column0;
  t.lda = t.depth, t.ldb = p.k, t.ldc = width;
  t.a = a + (t.first + t.row0) * t.lda;
  t.b = b + t.expert * p.m * p.k + (forward ? t.column0 * p.k : t.column0);
  return true;
}

// Where C's tile starts, and the finished value of each pair or single element of it.
template <Form F, class T, class TC>
struct Writer {
  const Product& p;
  const Piece<T>& t;
  __device__ int64_t index(int64_t row, int64_t column) const {
    const int64_t line = (F == Form::dw ? t.expert * p.m : t.first) + t.row0 + row;
    return line * t.ldc + t.column0 + column;
  }
  __device__ void operator()(int64_t row, int64_t column, float sum) const {
    if (row >= t.rows || column >= t.columns) return;
    const int64_t i = index(row, column);
    TC* c = static_cast<TC*>(p.c) + i;
    if constexpr (F == Form::forward) {
      if (p.bias) {
        sum += to_float(static_cast<const T*>(p.bias)[t.expert * p.m + t.column0 + column]);
      }
    }
    if constexpr (F == Form::dw) {
      *c = from_float<TC>(p.accumulate ? to_float(*c) + sum : sum);
    } else {
      const TC* pre = static_cast<const TC*>(p.pre) + (p.pre ? i : 0);
      TC* extra = static_cast<TC*>(p.extra) + (p.extra ? i : 0);
      finish_one(p.finish, sum, c, pre, p.extra ? extra : nullptr);
    }
  }
};

// ---- f32: 64 x 64, each thread 4 x 4

constexpr int kPlainTile = 64, kPlainDepth = 16;

template <Form F>
__global__ __launch_bounds__(kThreads) void plain_kernel(const Product p) {
  extern __shared__ int before[];
  __shared__ float a[kPlainDepth][kPlainTile + 4], b[kPlainDepth][kPlainTile + 4];
  Piece<float> t;
  if (!find_piece<F, kPlainTile>(p, before, t)) return;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  float sum[4][4] = {};
  for (int64_t k0 = 0; k0 < t.depth; k0 += kPlainDepth) {
    for (int i = static_cast<int>(threadIdx.x); i < kPlainTile * kPlainDepth; i += kThreads) {
      // Neighbouring threads read along the index that runs fastest.
      const int ka = F == Form::dw ? i / kPlainTile : i % kPlainDepth;
      const int ra = F == Form::dw ? i % kPlainTile : i / kPlainDepth;
      const int kb = F == Form::forward ? i % kPlainDepth : i / kPlainTile;
      const int cb = F == Form::forward ? i / kPlainDepth : i % kPlainTile;
      const bool in_a = ra < t.rows && k0 + ka < t.depth;
      const bool in_b = cb < t.columns && k0 + kb < t.depth;
      a[ka][ra] = !in_a           ? 0.0f
                  : F == Form::dw ? t.a[(k0 + ka) * t.lda + ra]
                                  : t.a[ra * t.lda + k0 + ka];
      b[kb][cb] = !in_b                ? 0.0f
                  : F == Form::forward ? t.b[cb * t.ldb + k0 + kb]
                                       : t.b[(k0 + kb) * t.ldb + cb];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kPlainDepth; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += a[k][ty * 4 + i] * b[k][tx * 4 + j];
      }
    }
    __syncthreads();
  }
  const Writer<F, float, float> write{p, t};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) write(ty * 4 + i, tx * 4 + j, sum[i][j]);
  }
}

// ---- bf16: 128 x 128 x 32, eight warps of 64 x 32

constexpr int kTile = 128, kDepth = 32;
constexpr int kLine[2] = {kDepth + 8, kTile + 8};  // elements a line in shared memory: k fast, not
constexpr int kOperand = 128 * 40;                 // elements of one operand's tile, either way
static_assert(kOperand >= kDepth * kLine[1] && kOperand >= kTile * kLine[0]);

// Brings a tile of an operand to shared memory as it lies in global memory: `outer` rows or columns
// by k, or k by them. Sixteen bytes a thread where rows are aligned, else one element.
template <bool KFast>
__device__ void fetch(Bf16* to, const Bf16* from, int64_t ld, int64_t outer, int64_t depth,
                      bool aligned) {
  constexpr int lines = KFast ? kTile : kDepth, width = KFast ? kDepth : kTile;
  const int64_t lines_left = KFast ? outer : depth, width_left = KFast ? depth : outer;
  for (int i = static_cast<int>(threadIdx.x); i < lines * width / 8; i += kThreads) {
    const int line = i / (width / 8), column = i % (width / 8) * 8;
    Bf16* at = to + line * kLine[!KFast] + column;
    const Bf16* source = from + line * ld + column;
    if (aligned) {
      const bool in = line < lines_left && column < width_left;
      copy_async(at, in ? source : from, in);
    } else {
      for (int j = 0; j < 8; ++j) {
        const bool in = line < lines_left && column + j < width_left;
        at[j] = in ? source[j] : from_float<Bf16>(0.0f);
      }
    }
  }
}

// A warp's 64 x 32 part of one stage. ldmatrix: lane l gives the address of row l % 8 of its
// matrix l / 8; A's four matrices go (row, k) = (0, 0), (8, 0), (0, 8), (8, 8), B's two column
// groups go (column, k) = (0, 0), (0, 8), (8, 0), (8, 8).
template <bool AKFast, bool BKFast>
__device__ __forceinline__ void multiply_stage(float (&sum)[4][4][4], const Bf16* a, const Bf16* b,
                                               int row0, int column0) {
  const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8, r = lane % 8;
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    uint32_t fa[4][4], fb[2][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = row0 + 16 * i + matrix % 2 * 8, at = k + matrix / 2 * 8;
      const int offset = AKFast ? (row + r) * kLine[0] + at : (at + r) * kLine[1] + row;
      load_matrices<!AKFast>(fa[i], a + offset);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int column = column0 + 16 * j + matrix / 2 * 8, at = k + matrix % 2 * 8;
      const int offset = BKFast ? (column + r) * kLine[0] + at : (at + r) * kLine[1] + column;
      load_matrices<!BKFast>(fb[j], b + offset);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        mma(sum[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}

template <Form F, class TC>
__global__ __launch_bounds__(kThreads) void mma_kernel(const Product p, bool aligned_a,
                                                       bool aligned_b) {
  constexpr bool a_k_fast = F != Form::dw, b_k_fast = F == Form::forward;
  extern __shared__ int before[];
  __shared__ alignas(16) Bf16 a[2][kOperand];
  __shared__ alignas(16) Bf16 b[2][kOperand];
  Piece<Bf16> t;
  if (!find_piece<F, kTile>(p, before, t)) return;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row0 = warp / 4 * 64, column0 = warp % 4 * 32;
  float sum[4][4][4] = {};
  const auto fetch_stage = [&](int64_t k0, int stage) {
    fetch<a_k_fast>(a[stage], t.a + k0 * (a_k_fast ? 1 : t.lda), t.lda, t.rows, t.depth - k0,
                    aligned_a);
    fetch<b_k_fast>(b[stage], t.b + k0 * (b_k_fast ? 1 : t.ldb), t.ldb, t.columns, t.depth - k0,
                    aligned_b);
    commit_copies();
  };
  if (t.depth > 0) fetch_stage(0, 0);
  int stage = 0;
  for (int64_t k0 = 0; k0 < t.depth; k0 += kDepth, stage ^= 1) {
    if (k0 + kDepth < t.depth) {
      fetch_stage(k0 + kDepth, stage ^ 1);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    multiply_stage<a_k_fast, b_k_fast>(sum, a[stage], b[stage], row0, column0);
    __syncthreads();
  }
  const Writer<F, Bf16, TC> write{p, t};
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        write(row0 + 16 * i + lane / 4 + v / 2 * 8, column0 + 8 * j + lane % 4 * 2 + v % 2,
              sum[i][j][v]);
      }
    }
  }
}

template <Form F>
void launch(const Product& p, cudaStream_t stream) {
  const int64_t tile = p.bf16 ? kTile : kPlainTile;
  const int64_t columns = F == Form::forward ? p.m : p.k;
  const dim3 grid = F == Form::dw ? dim3(static_cast<unsigned>(ceil_div(columns, tile)),
                                         static_cast<unsigned>(ceil_div(p.m, tile)),
                                         static_cast<unsigned>(p.experts))
                                  : dim3(static_cast<unsigned>(ceil_div(columns, tile)),
                                         static_cast<unsigned>(p.rows / tile + p.experts));
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const auto shared = static_cast<size_t>((p.experts + 1) * 4);
  if (!p.bf16) {
    plain_kernel<F><<<grid, kThreads, shared, stream>>>(p);
    return;
  }
  const bool aligned_a =
      rows_aligned(static_cast<const Bf16*>(p.a), F == Form::forward ? p.k : p.m);
  const bool aligned_b = rows_aligned(static_cast<const Bf16*>(p.b), p.k);
  const auto kernel = p.wide ? mma_kernel<F, float> : mma_kernel<F, Bf16>;
  kernel<<<grid, kThreads, shared, stream>>>(p, aligned_a, aligned_b);
}

}  // namespace

void portable(const Product& p, cudaStream_t stream) {
  PM_CHECK(p.experts <= kMostExperts && p.rows / kPlainTile + p.experts <= 65535,
           "grouped product: ", p.experts, " experts and ", p.rows, " rows; at most ", kMostExperts,
           " experts and 4 million rows fit one launch");
  if (p.form == Form::forward) {
    launch<Form::forward>(p, stream);
  } else if (p.form == Form::dx) {
    launch<Form::dx>(p, stream);
  } else {
    launch<Form::dw>(p, stream);
  }
  PM_LAUNCHED();
}

}  // namespace pyramoe::gpu::grouped
