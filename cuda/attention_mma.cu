// Attention on the tensor cores of any GPU since sm_80: bf16 products, fp32 sums and softmax.
//
// Forward: FlashAttention-2 (Dao, 2023). A block has 64 queries; tiles of 64 keys pass by with a
// running softmax. Backward computes the probabilities again from the saved log-sum-exp, twice:
// once with keys at rest (dK, dV), once with queries at rest (dQ). Scores stand transposed in the
// first, so that in both the probabilities are a left operand in registers, and nobody adds to
// memory that another block adds to. That is 7 products for 5, and it is deterministic.
#include "cuda/attention.cuh"
#include "cuda/attention_mma.cuh"

namespace pyramoe::gpu::attention {
namespace {

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// One row (of the lane's two) of the running softmax: scores to probabilities before division.
// Returns by how much all that came before must shrink.
__device__ __forceinline__ float softmax_row(Fragment<kScores>& s, int high, int seen, float scale,
                                             float& largest, float& sum) {
  const int column = threadIdx.x % 4 * 2;
  float top = largest;
#pragma unroll
  for (int g = 0; g < kScores; ++g) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float& x = s[g][2 * high + i];
      x = 8 * g + column + i < seen ? x * scale : -INFINITY;
      top = fmaxf(top, x);
    }
  }
  top = quad_max(top);
  float total = 0;
#pragma unroll
  for (int g = 0; g < kScores; ++g) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float& x = s[g][2 * high + i];
      x = __expf(x - top);
      total += x;
    }
  }
  const float shrink = __expf(largest - top);
  sum = fmaf(sum, shrink, quad_sum(total));
  largest = top;
  return shrink;
}

__device__ void drop_scores(const Drop& drop, Fragment<kScores>& s, int64_t head, int query,
                            int k0) {
  const int column = threadIdx.x % 4 * 2;
  for (int g = 0; g < kScores; ++g) {
    for (int i = 0; i < 4; ++i)
      s[g][i] *= drop(head, query + i / 2 * 8, k0 + 8 * g + column + i % 2);
  }
}

template <int kDim>
__global__ void __launch_bounds__(kMmaThreads)
    mma_forward_kernel(const __grid_constant__ Forward<Bf16> f, bool aligned) {
  extern __shared__ __align__(16) Bf16 tiles_memory[];
  Bf16 *q = tiles_memory, *k = q + kTileElements<kDim>, *v = k + kTileElements<kDim>;
  const Place at((f.queries + kTile - 1) / kTile, f.heads, true);
  const int warp_row = threadIdx.x / 32 * 16, row = warp_row + threadIdx.x % 32 / 4;
  const int q0 = at.tile * kTile, first = f.lengths ? f.lengths[at.b] : 0;
  const int keys = min(first + f.queries, f.capacity), position = first + q0 + row;
  load_tile<kDim>(q, f.q.head(at.b, at.h, f.dim) + q0 * f.q.row, f.q.row, f.queries - q0, f.dim,
                  aligned);
  const Bf16* k_rows = f.k.head(at.b, at.h, f.dim);
  const Bf16* v_rows = f.v.head(at.b, at.h, f.dim);
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  Fragment<kDim / 8> o = {};
  for (int k0 = 0; k0 < min(keys, first + q0 + kTile); k0 += kTile) {
    __syncthreads();
    load_tile<kDim>(k, k_rows + k0 * f.k.row, f.k.row, keys - k0, f.dim, aligned);
    load_tile<kDim>(v, v_rows + k0 * f.v.row, f.v.row, keys - k0, f.dim, aligned);
    __syncthreads();
    Fragment<kScores> s;
    product_abt<kDim>(s, q + warp_row * kStride<kDim>, k);
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const float shrink =
          softmax_row(s, high, position + 8 * high + 1 - k0, f.scale, largest[high], sum[high]);
#pragma unroll
      for (int g = 0; g < kDim / 8; ++g) o[g][2 * high] *= shrink, o[g][2 * high + 1] *= shrink;
    }
    if (f.drop.on()) drop_scores(f.drop, s, at.head, position, k0);
    add_product<kDim>(o, s, v);
  }
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    const int query = q0 + row + 8 * high;
    if (query >= f.queries) continue;
    write_row<kDim>(f.y.head(at.b, at.h, f.dim) + query * f.y.row, o, high, 1 / sum[high], f.dim);
    if (f.lse && threadIdx.x % 4 == 0) {
      f.lse[at.head * f.queries + query] = largest[high] + logf(sum[high]);
    }
  }
}

// s: score to p (with dropout); dp: to dS. Masked places become zero.
__device__ __forceinline__ void score_gradient(const Backward<Bf16>& f, int64_t head, int query,
                                               int key, float lse, float delta, float& s,
                                               float& dp) {
  const bool seen = key <= query && query < f.tokens;
  const float p = seen ? __expf(s * f.scale - lse) : 0.0f;
  const float keep = f.drop.on() && seen ? f.drop(head, query, key) : 1.0f;
  s = p * keep;
  dp = seen ? p * (dp * keep - delta) * f.scale : 0.0f;
}

template <int kDim>
__global__ void __launch_bounds__(kMmaThreads)
    mma_dkv_kernel(const __grid_constant__ Backward<Bf16> f, bool aligned) {
  extern __shared__ __align__(16) Bf16 tiles_memory[];
  Bf16 *k = tiles_memory, *v = k + kTileElements<kDim>, *q = v + kTileElements<kDim>;
  Bf16* dy = q + kTileElements<kDim>;
  __shared__ float lse[kTile], delta[kTile];
  const Place at((f.tokens + kTile - 1) / kTile, f.heads, false);
  const int warp_row = threadIdx.x / 32 * 16, row = warp_row + threadIdx.x % 32 / 4;
  const int k0 = at.tile * kTile, column = threadIdx.x % 4 * 2, keys = f.tokens - k0;
  load_tile<kDim>(k, f.k.head(at.b, at.h, f.dim) + k0 * f.k.row, f.k.row, keys, f.dim, aligned);
  load_tile<kDim>(v, f.v.head(at.b, at.h, f.dim) + k0 * f.v.row, f.v.row, keys, f.dim, aligned);
  const Bf16* q_rows = f.q.head(at.b, at.h, f.dim);
  const Bf16* dy_rows = f.dy.head(at.b, at.h, f.dim);
  Fragment<kDim / 8> dk = {}, dv = {};
  for (int q0 = k0; q0 < f.tokens; q0 += kTile) {
    const int rest = f.tokens - q0;
    __syncthreads();
    load_tile<kDim>(q, q_rows + q0 * f.q.row, f.q.row, rest, f.dim, aligned);
    load_tile<kDim>(dy, dy_rows + q0 * f.dy.row, f.dy.row, rest, f.dim, aligned);
    for (int i = threadIdx.x; i < kTile; i += kMmaThreads) {
      lse[i] = i < rest ? f.lse[at.head * f.tokens + q0 + i] : 0.0f;
      delta[i] = i < rest ? f.delta[at.head * f.tokens + q0 + i] : 0.0f;
    }
    __syncthreads();
    Fragment<kScores> s, dp;  // (keys, queries)
    product_abt<kDim>(s, k + warp_row * kStride<kDim>, q);
    product_abt<kDim>(dp, v + warp_row * kStride<kDim>, dy);
#pragma unroll
    for (int g = 0; g < kScores; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int query = 8 * g + column + i % 2;
        score_gradient(f, at.head, q0 + query, k0 + row + i / 2 * 8, lse[query], delta[query],
                       s[g][i], dp[g][i]);
      }
    }
    add_product<kDim>(dv, s, dy);
    add_product<kDim>(dk, dp, q);
  }
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    const int key = k0 + row + 8 * high;
    if (key >= f.tokens) continue;
    write_row<kDim>(f.dk.head(at.b, at.h, f.dim) + key * f.dk.row, dk, high, 1.0f, f.dim);
    write_row<kDim>(f.dv.head(at.b, at.h, f.dim) + key * f.dv.row, dv, high, 1.0f, f.dim);
  }
}

template <int kDim>
__global__ void __launch_bounds__(kMmaThreads)
    mma_dq_kernel(const __grid_constant__ Backward<Bf16> f, bool aligned) {
  extern __shared__ __align__(16) Bf16 tiles_memory[];
  Bf16 *q = tiles_memory, *dy = q + kTileElements<kDim>, *k = dy + kTileElements<kDim>;
  Bf16* v = k + kTileElements<kDim>;
  const Place at((f.tokens + kTile - 1) / kTile, f.heads, true);
  const int warp_row = threadIdx.x / 32 * 16, row = warp_row + threadIdx.x % 32 / 4;
  const int q0 = at.tile * kTile, column = threadIdx.x % 4 * 2, rest = f.tokens - q0;
  load_tile<kDim>(q, f.q.head(at.b, at.h, f.dim) + q0 * f.q.row, f.q.row, rest, f.dim, aligned);
  load_tile<kDim>(dy, f.dy.head(at.b, at.h, f.dim) + q0 * f.dy.row, f.dy.row, rest, f.dim, aligned);
  float lse[2], delta[2];
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    const int64_t i = at.head * f.tokens + q0 + row + 8 * high;
    lse[high] = row + 8 * high < rest ? f.lse[i] : 0.0f;
    delta[high] = row + 8 * high < rest ? f.delta[i] : 0.0f;
  }
  const Bf16* k_rows = f.k.head(at.b, at.h, f.dim);
  const Bf16* v_rows = f.v.head(at.b, at.h, f.dim);
  Fragment<kDim / 8> dq = {};
  for (int k0 = 0; k0 <= q0; k0 += kTile) {
    __syncthreads();
    load_tile<kDim>(k, k_rows + k0 * f.k.row, f.k.row, f.tokens - k0, f.dim, aligned);
    load_tile<kDim>(v, v_rows + k0 * f.v.row, f.v.row, f.tokens - k0, f.dim, aligned);
    __syncthreads();
    Fragment<kScores> s, dp;  // (queries, keys)
    product_abt<kDim>(s, q + warp_row * kStride<kDim>, k);
    product_abt<kDim>(dp, dy + warp_row * kStride<kDim>, v);
#pragma unroll
    for (int g = 0; g < kScores; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score_gradient(f, at.head, q0 + row + i / 2 * 8, k0 + 8 * g + column + i % 2, lse[i / 2],
                       delta[i / 2], s[g][i], dp[g][i]);
      }
    }
    add_product<kDim>(dq, dp, k);
  }
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    const int query = q0 + row + 8 * high;
    if (query >= f.tokens) continue;
    write_row<kDim>(f.dq.head(at.b, at.h, f.dim) + query * f.dq.row, dq, high, 1.0f, f.dim);
  }
}

template <class F>
void launch(void (*kernel)(F, bool), const F& f, int64_t rows, int64_t tile_elements,
            bool aligned) {
  const auto bytes = static_cast<int>(tile_elements * static_cast<int64_t>(sizeof(Bf16)));
  allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
  const int64_t blocks = ceil_div(rows, kTile) * f.heads * f.batch;
  kernel<<<static_cast<unsigned>(blocks), kMmaThreads, static_cast<size_t>(bytes), stream()>>>(
      f, aligned);
  PM_LAUNCHED();
}

template <class T>
bool aligned(const Rows<T>& x, int dim) {
  return tile_rows_aligned(x.data, x.row, x.batch, dim);
}

}  // namespace

void mma_forward(const Forward<Bf16>& f) {
  const bool whole = aligned(f.q, f.dim) && aligned(f.k, f.dim) && aligned(f.v, f.dim);
  for_padded_dim(f.dim, [&]<int kDim>() {
    launch(mma_forward_kernel<kDim>, f, f.queries, 3 * kTileElements<kDim>, whole);
  });
}

void mma_backward(const Backward<Bf16>& f) {
  row_delta(f);
  const bool whole =
      aligned(f.q, f.dim) && aligned(f.k, f.dim) && aligned(f.v, f.dim) && aligned(f.dy, f.dim);
  for_padded_dim(f.dim, [&]<int kDim>() {
    launch(mma_dkv_kernel<kDim>, f, f.tokens, 4 * kTileElements<kDim>, whole);
    launch(mma_dq_kernel<kDim>, f, f.tokens, 4 * kTileElements<kDim>, whole);
  });
}

}  // namespace pyramoe::gpu::attention
