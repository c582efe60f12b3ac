// Passes over ragged segments that are no products: bias gradients and GELU's backward pass alone.
//
// Both are bound by memory. The number of rows comes from the offsets on the device; grids follow
// from shapes, and blocks without rows leave at once.
#include "core/kernels/matmul.h"
#include "cuda/gelu.cuh"
#include "cuda/grouped.h"
#include "cuda/launch.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::grouped {
namespace {

constexpr int kColumns = 32, kRowLanes = 16;  // a block sums 32 columns with 16 rows under way

// Lane i adds rows i, i + 16, ... in order; lane 0 then adds the lanes in order.
template <class T, class TC>
__global__ __launch_bounds__(kColumns* kRowLanes) void column_sums_kernel(const ColumnSums p) {
  __shared__ float part[kRowLanes][kColumns];
  const int column = static_cast<int>(threadIdx.x), lane = static_cast<int>(threadIdx.y);
  const int64_t e = blockIdx.y, m = static_cast<int64_t>(blockIdx.x) * kColumns + column;
  const int64_t end = p.offsets[e + 1];
  float sum = 0;
  if (m < p.m) {
    const T* dy = static_cast<const T*>(p.dy) + m;
#pragma unroll 8
    for (int64_t r = p.offsets[e] + lane; r < end; r += kRowLanes) sum += to_float(dy[r * p.m]);
  }
  part[lane][column] = sum;
  __syncthreads();
  if (lane != 0 || m >= p.m) return;
  TC* db = static_cast<TC*>(p.db) + e * p.m + m;
  float total = p.accumulate ? to_float(*db) : 0.0f;
#pragma unroll
  for (int i = 0; i < kRowLanes; ++i) total += part[i][column];
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
  const dim3 grid(static_cast<unsigned>(ceil_div(p.m, kColumns)), static_cast<unsigned>(p.experts));
  if (grid.x == 0 || grid.y == 0) return;
  const auto kernel = !p.bf16  ? column_sums_kernel<float, float>
                      : p.wide ? column_sums_kernel<Bf16, float>
                               : column_sums_kernel<Bf16, Bf16>;
  kernel<<<grid, dim3(kColumns, kRowLanes), 0, stream>>>(p);
  PM_LAUNCHED();
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
