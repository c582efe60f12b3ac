// Passes over ragged segments that are no products: bias gradients and GELU's backward pass alone.
//
// Both are bound by memory. The number of rows comes from the offsets on the device; grids follow
// from shapes, and blocks without rows leave at once.
#include "core/kernels/matmul.h"
#include "cuda/column_sums.cuh"
#include "cuda/gelu.cuh"
#include "cuda/grouped.h"
#include "cuda/launch.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::grouped {
namespace {

// A block sums 32 * N columns of an expert: its 8 warps take every eighth row and are then added in
// order.
template <int N, class T, class TC>
__global__ __launch_bounds__(256) void column_sums_kernel(const ColumnSums p) {
  __shared__ float sums[kStripWarps][32 * N];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t e = blockIdx.y, first = static_cast<int64_t>(blockIdx.x) * 32 * N;
  const int64_t column = first + lane * N;
  float sum[N] = {};
  if (column < p.m) {
    sum_strip(static_cast<const T*>(p.dy) + column, int64_t{p.offsets[e]} + warp,
              int64_t{p.offsets[e + 1]}, p.m, sum);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) sums[warp][i * 32 + lane] = sum[i];
  __syncthreads();
  const int k = static_cast<int>(threadIdx.x);
  if (k >= 32 * N || first + k >= p.m) return;
  TC* db = static_cast<TC*>(p.db) + e * p.m + first + k;
  float total = p.accumulate ? to_float(*db) : 0.0f;
#pragma unroll
  for (int w = 0; w < kStripWarps; ++w) total += sums[w][(k % N) * 32 + k / N];
  *db = from_float<TC>(total);
}

constexpr int kThreads = 256;

template <class T, int N>
__global__ __launch_bounds__(kThreads) void gelu_backward_kernel(const T* dy, const T* pre,
                                                                 const int32_t* offsets,
                                                                 int64_t experts, int64_t width,
                                                                 T* dx) {
  const int64_t end = offsets[experts] * width / N;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  int64_t i = offsets[0] * width / N + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i < end; i += stride) {
    Vec<T, N> g = load_vec<T, N>(dy + i * N);
    const Vec<T, N> x = load_vec<T, N>(pre + i * N);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      g.v[j] = from_float<T>(to_float(g.v[j]) * Gelu<T>::slope(to_float(x.v[j])));
    }
    store_vec(dx + i * N, g);
  }
}

}  // namespace

void column_sums(const ColumnSums& p, cudaStream_t stream) {
  const auto launch = [&]<class T, class TC>() {
    constexpr int kPack = 16 / sizeof(T);
    const bool packs = rows_aligned(static_cast<const T*>(p.dy), p.m);
    const dim3 grid(static_cast<unsigned>(ceil_div(p.m, packs ? 32 * kPack : 32)),
                    static_cast<unsigned>(p.experts));
    if (grid.x == 0 || grid.y == 0) return;
    const auto kernel = packs ? column_sums_kernel<kPack, T, TC> : column_sums_kernel<1, T, TC>;
    kernel<<<grid, 256, 0, stream>>>(p);
    PM_LAUNCHED();
  };
  if (!p.bf16) {
    launch.template operator()<float, float>();
  } else if (p.wide) {
    launch.template operator()<Bf16, float>();
  } else {
    launch.template operator()<Bf16, Bf16>();
  }
}

}  // namespace pyramoe::gpu::grouped

namespace pyramoe::kernels::cuda {

void grouped_gelu_backward(const Tensor& dy, const Tensor& pre, const Tensor& offsets, Tensor& dx) {
  PM_CHECK(dy.shape() == pre.shape() && dy.shape() == dx.shape() && dy.rank() == 2,
           "grouped_gelu_backward: dy ", to_string(dy.shape()), ", pre ", to_string(pre.shape()),
           " and dx ", to_string(dx.shape()), " must be equal (R, M)");
  if (dy.numel() == 0) return;
  gpu::visit_floating(dy.dtype(), "grouped_gelu_backward", [&]<class T>() {
    const T *g = gpu::data<T>(dy), *x = gpu::data<T>(pre);
    T* to = gpu::data<T>(dx);
    const auto* o = gpu::data<int32_t>(offsets);
    const int64_t experts = offsets.numel() - 1, width = dy.dim(1);
    const unsigned blocks = gpu::grid(dy.numel(), gpu::grouped::kThreads * 16 / sizeof(T),
                                      int64_t{16} * gpu::multiprocessors());
    constexpr int N = 16 / sizeof(T);
    const bool aligned =
        gpu::rows_aligned(g, width) && gpu::rows_aligned(x, width) && gpu::rows_aligned(to, width);
    const auto kernel = aligned ? gpu::grouped::gelu_backward_kernel<T, N>
                                : gpu::grouped::gelu_backward_kernel<T, 1>;
    kernel<<<blocks, gpu::grouped::kThreads, 0, gpu::stream()>>>(g, x, o, experts, width, to);
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
