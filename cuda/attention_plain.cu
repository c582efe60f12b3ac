// Attention by the ordinary fp32 units: f32 tensors (true fp32), and any head dim up to 256.
//
// A block owns a tile of rows (queries, or keys in the pass for dK and dV) and walks the tiles on
// the other side through shared memory. Eight lanes share a row: each takes every eighth score of
// the tile, then every eighth column of the row's sum, which stays in registers from first tile to
// last. The row stride in shared memory is odd, so lanes that read different rows use other banks.
#include "cuda/attention.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::attention {
namespace {

constexpr int kLanes = 8;  // threads of one row

__device__ int row_stride(int dim) { return dim | 1; }

template <int kRows, class T>
__device__ void load_rows(float* to, const T* from, int64_t stride, int rows, int dim) {
  const int ld = row_stride(dim);
  for (int i = threadIdx.x; i < kRows * dim; i += kRows * kLanes) {
    const int r = i / dim, d = i % dim;
    to[r * ld + d] = r < rows ? to_float(from[r * stride + d]) : 0.0f;
  }
}

__device__ float dot(const float* a, const float* b, int dim) {
  float sum = 0;
#pragma unroll 8
  for (int d = 0; d < dim; ++d) sum = fmaf(a[d], b[d], sum);
  return sum;
}

__device__ float row_max(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  }
  return x;
}
__device__ float row_sum(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// sum[c] += Σ_r weight[r] * rows[r][lane + 8 c]
template <int kRows, int kColumns>
__device__ void add_rows(float (&sum)[kColumns], const float* weight, const float* rows, int lane,
                         int dim) {
  const int ld = row_stride(dim);
  for (int r = 0; r < kRows; ++r) {
    const float w = weight[r];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int d = lane + kLanes * c;
      if (d < dim) sum[c] = fmaf(w, rows[r * ld + d], sum[c]);
    }
  }
}

template <int kColumns, class T>
__device__ void write_row(T* to, const float (&x)[kColumns], float factor, int lane, int dim) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int d = lane + kLanes * c;
    if (d < dim) to[d] = from_float<T>(x[c] * factor);
  }
}

template <class T, int kRows, int kColumns>
__global__ void __launch_bounds__(kRows* kLanes)
    plain_forward_kernel(const __grid_constant__ Forward<T> f) {
  extern __shared__ float shared[];
  const int ld = row_stride(f.dim), tiles = (f.queries + kRows - 1) / kRows;
  float *q = shared, *k = q + kRows * ld, *v = k + kRows * ld, *p = v + kRows * ld;
  const Place at(tiles, f.heads, true);
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int q0 = at.tile * kRows, first = f.lengths ? f.lengths[at.b] : 0;
  const int keys = min(first + f.queries, f.capacity), position = first + q0 + row;
  load_rows<kRows>(q, f.q.head(at.b, at.h, f.dim) + q0 * f.q.row, f.q.row, f.queries - q0, f.dim);
  const T* k_rows = f.k.head(at.b, at.h, f.dim);
  const T* v_rows = f.v.head(at.b, at.h, f.dim);
  float largest = -INFINITY, sum = 0, o[kColumns] = {};
  for (int k0 = 0; k0 < min(keys, first + q0 + kRows); k0 += kRows) {
    __syncthreads();
    load_rows<kRows>(k, k_rows + k0 * f.k.row, f.k.row, keys - k0, f.dim);
    load_rows<kRows>(v, v_rows + k0 * f.v.row, f.v.row, keys - k0, f.dim);
    __syncthreads();
    float s[kRows / kLanes], top = largest;
#pragma unroll
    for (int j = 0; j < kRows / kLanes; ++j) {
      const int key = lane + kLanes * j;
      s[j] = k0 + key <= position ? dot(q + row * ld, k + key * ld, f.dim) * f.scale : -INFINITY;
      top = fmaxf(top, s[j]);
    }
    top = row_max(top);  // finite: every query sees key 0
    float total = 0;
#pragma unroll
    for (int j = 0; j < kRows / kLanes; ++j) {
      const int key = lane + kLanes * j;
      s[j] = expf(s[j] - top);
      total += s[j];
      if (f.drop.on()) s[j] *= f.drop(at.head, position, k0 + key);
      p[row * (kRows + 1) + key] = s[j];
    }
    const float shrink = expf(largest - top);
    sum = fmaf(sum, shrink, row_sum(total));
    largest = top;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) o[c] *= shrink;
    __syncwarp();  // a row's lanes are of one warp
    add_rows<kRows>(o, p + row * (kRows + 1), v, lane, f.dim);
  }
  if (q0 + row >= f.queries) return;
  write_row(f.y.head(at.b, at.h, f.dim) + (q0 + row) * f.y.row, o, 1 / sum, lane, f.dim);
  if (f.lse && lane == 0) f.lse[at.head * f.queries + q0 + row] = largest + logf(sum);
}

// What one score gives the gradients: p, for dV, and dS.
struct Score {
  float p, ds;
};
template <class T>
__device__ Score score_gradient(const Backward<T>& f, int64_t head, int query, int key, float qk,
                                float dp, float lse, float delta) {
  if (key > query || query >= f.tokens) return {0, 0};
  const float keep = f.drop.on() ? f.drop(head, query, key) : 1.0f;
  const float p = expf(qk * f.scale - lse);
  return {p * keep, p * (dp * keep - delta) * f.scale};
}

// dK and dV of a tile of keys: a row is a key, the tiles of queries pass by.
template <class T, int kRows, int kColumns>
__global__ void __launch_bounds__(kRows* kLanes)
    plain_dkv_kernel(const __grid_constant__ Backward<T> f) {
  extern __shared__ float shared[];
  const int ld = row_stride(f.dim), tiles = (f.tokens + kRows - 1) / kRows, size = kRows * ld;
  float *k = shared, *v = k + size, *q = v + size, *dy = q + size, *p = dy + size;
  float *ds = p + kRows * (kRows + 1), *lse = ds + kRows * (kRows + 1), *delta = lse + kRows;
  const Place at(tiles, f.heads, false);
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, k0 = at.tile * kRows;
  load_rows<kRows>(k, f.k.head(at.b, at.h, f.dim) + k0 * f.k.row, f.k.row, f.tokens - k0, f.dim);
  load_rows<kRows>(v, f.v.head(at.b, at.h, f.dim) + k0 * f.v.row, f.v.row, f.tokens - k0, f.dim);
  const T* q_rows = f.q.head(at.b, at.h, f.dim);
  const T* dy_rows = f.dy.head(at.b, at.h, f.dim);
  float dk[kColumns] = {}, dv[kColumns] = {};
  for (int q0 = k0; q0 < f.tokens; q0 += kRows) {
    const int rest = f.tokens - q0;
    __syncthreads();
    load_rows<kRows>(q, q_rows + q0 * f.q.row, f.q.row, rest, f.dim);
    load_rows<kRows>(dy, dy_rows + q0 * f.dy.row, f.dy.row, rest, f.dim);
    if (threadIdx.x < kRows) {
      const int64_t i = at.head * f.tokens + q0 + threadIdx.x;
      lse[threadIdx.x] = static_cast<int>(threadIdx.x) < rest ? f.lse[i] : 0.0f;
      delta[threadIdx.x] = static_cast<int>(threadIdx.x) < rest ? f.delta[i] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kRows / kLanes; ++j) {
      const int query = lane + kLanes * j;
      const Score s =
          score_gradient(f, at.head, q0 + query, k0 + row, dot(q + query * ld, k + row * ld, f.dim),
                         dot(dy + query * ld, v + row * ld, f.dim), lse[query], delta[query]);
      p[row * (kRows + 1) + query] = s.p;
      ds[row * (kRows + 1) + query] = s.ds;
    }
    __syncwarp();
    add_rows<kRows>(dv, p + row * (kRows + 1), dy, lane, f.dim);
    add_rows<kRows>(dk, ds + row * (kRows + 1), q, lane, f.dim);
  }
  if (k0 + row >= f.tokens) return;
  write_row(f.dk.head(at.b, at.h, f.dim) + (k0 + row) * f.dk.row, dk, 1.0f, lane, f.dim);
  write_row(f.dv.head(at.b, at.h, f.dim) + (k0 + row) * f.dv.row, dv, 1.0f, lane, f.dim);
}

// dQ of a tile of queries: a row is a query, the tiles of keys pass by.
template <class T, int kRows, int kColumns>
__global__ void __launch_bounds__(kRows* kLanes)
    plain_dq_kernel(const __grid_constant__ Backward<T> f) {
  extern __shared__ float shared[];
  const int ld = row_stride(f.dim), tiles = (f.tokens + kRows - 1) / kRows, size = kRows * ld;
  float *q = shared, *dy = q + size, *k = dy + size, *v = k + size, *ds = v + size;
  const Place at(tiles, f.heads, true);
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, q0 = at.tile * kRows;
  const int rest = f.tokens - q0, query = q0 + row;
  load_rows<kRows>(q, f.q.head(at.b, at.h, f.dim) + q0 * f.q.row, f.q.row, rest, f.dim);
  load_rows<kRows>(dy, f.dy.head(at.b, at.h, f.dim) + q0 * f.dy.row, f.dy.row, rest, f.dim);
  const float lse = row < rest ? f.lse[at.head * f.tokens + query] : 0.0f;
  const float delta = row < rest ? f.delta[at.head * f.tokens + query] : 0.0f;
  const T* k_rows = f.k.head(at.b, at.h, f.dim);
  const T* v_rows = f.v.head(at.b, at.h, f.dim);
  float dq[kColumns] = {};
  for (int k0 = 0; k0 <= q0; k0 += kRows) {
    __syncthreads();
    load_rows<kRows>(k, k_rows + k0 * f.k.row, f.k.row, f.tokens - k0, f.dim);
    load_rows<kRows>(v, v_rows + k0 * f.v.row, f.v.row, f.tokens - k0, f.dim);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kRows / kLanes; ++j) {
      const int key = lane + kLanes * j;
      ds[row * (kRows + 1) + key] =
          score_gradient(f, at.head, query, k0 + key, dot(q + row * ld, k + key * ld, f.dim),
                         dot(dy + row * ld, v + key * ld, f.dim), lse, delta)
              .ds;
    }
    __syncwarp();
    add_rows<kRows>(dq, ds + row * (kRows + 1), k, lane, f.dim);
  }
  if (row >= rest) return;
  write_row(f.dq.head(at.b, at.h, f.dim) + query * f.dq.row, dq, 1.0f, lane, f.dim);
}

// A warp a row (b, t, h).
template <class T>
__global__ void delta_kernel(const __grid_constant__ Backward<T> f) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (row >= static_cast<int64_t>(f.batch) * f.tokens * f.heads) return;
  const int64_t h = row % f.heads, t = row / f.heads % f.tokens, b = row / f.heads / f.tokens;
  const T* y = f.y.head(b, h, f.dim) + t * f.y.row;
  const T* dy = f.dy.head(b, h, f.dim) + t * f.dy.row;
  float sum = 0;
  for (int d = threadIdx.x % kWarp; d < f.dim; d += kWarp) {
    sum = fmaf(to_float(y[d]), to_float(dy[d]), sum);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) f.delta[(b * f.heads + h) * f.tokens + t] = sum;
}

template <class F>
void launch(void (*kernel)(F), const F& f, int64_t rows, int tile, int floats) {
  const int bytes = floats * static_cast<int>(sizeof(float));
  allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
  const int64_t blocks = ceil_div(rows, tile) * f.heads * f.batch;
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(tile * kLanes),
           static_cast<size_t>(bytes), stream()>>>(f);
  PM_LAUNCHED();
}

// Calls run.operator()<rows of a tile, columns a lane>() for this head dim.
template <class F>
void for_dim(int dim, F&& run) {
  PM_CHECK(dim <= 256, "attention: head dim is ", dim, "; the CUDA kernels take up to 256");
  if (dim <= 64) return run.template operator()<32, 8>();
  if (dim <= 128) return run.template operator()<32, 16>();
  return run.template operator()<16, 32>();
}

}  // namespace

template <class T>
void plain_forward(const Forward<T>& f) {
  for_dim(f.dim, [&]<int kRows, int kColumns>() {
    launch(plain_forward_kernel<T, kRows, kColumns>, f, f.queries, kRows,
           3 * kRows * (f.dim | 1) + kRows * (kRows + 1));
  });
}

template <class T>
void row_delta(const Backward<T>& f) {
  const int64_t rows = static_cast<int64_t>(f.batch) * f.tokens * f.heads;
  delta_kernel<T><<<grid(rows, 8), 8 * kWarp, 0, stream()>>>(f);
  PM_LAUNCHED();
}

template <class T>
void plain_backward(const Backward<T>& f) {
  row_delta(f);
  for_dim(f.dim, [&]<int kRows, int kColumns>() {
    const int tiles = 4 * kRows * (f.dim | 1), square = kRows * (kRows + 1);
    launch(plain_dkv_kernel<T, kRows, kColumns>, f, f.tokens, kRows,
           tiles + 2 * square + 2 * kRows);
    launch(plain_dq_kernel<T, kRows, kColumns>, f, f.tokens, kRows, tiles + square);
  });
}

template void plain_forward(const Forward<float>&);
template void plain_forward(const Forward<Bf16>&);
template void plain_backward(const Backward<float>&);
template void plain_backward(const Backward<Bf16>&);
template void row_delta(const Backward<Bf16>&);

}  // namespace pyramoe::gpu::attention
