// Softmax twins. A row belongs to a warp (up to 1024 columns: router probabilities) or to a block
// of 256 threads. It is read again for each pass; after the first it is in the cache.
#include "core/kernels/softmax.h"

#include "cuda/map.cuh"
#include "cuda/reduce.cuh"

namespace pyramoe::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWarpColumns = 1024;

// Sums and maxima over the threads that share a row: a warp, or the whole block.
template <bool kWarpRow>
struct Team {
  float* shared;
  __device__ int64_t row() const {
    return kWarpRow ? int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32 : blockIdx.x;
  }
  __device__ int64_t first() const { return kWarpRow ? threadIdx.x % 32 : threadIdx.x; }
  static constexpr int kStep = kWarpRow ? 32 : kThreads;
  __device__ float sum(float x) const {
    return kWarpRow ? gpu::warp_sum(x) : gpu::block_sum(x, shared);
  }
  __device__ float max(float x) const {
    return kWarpRow ? gpu::warp_max(x) : gpu::block_max(x, shared);
  }
};

template <bool kWarpRow, class T>
__global__ void __launch_bounds__(kThreads)
    softmax_forward_kernel(int64_t rows, int64_t d, const T* x, T* y) {
  __shared__ float shared[2][gpu::kWarp];
  const Team<kWarpRow> team{shared[0]}, again{shared[1]};
  const int64_t n = team.row();
  if (n >= rows) return;  // a whole warp or block leaves
  const T* row = x + n * d;
  float top = -INFINITY;
  for (int64_t i = team.first(); i < d; i += team.kStep) top = fmaxf(top, gpu::to_float(row[i]));
  top = team.max(top);
  float sum = 0;
  for (int64_t i = team.first(); i < d; i += team.kStep) sum += expf(gpu::to_float(row[i]) - top);
  const float inverse = 1.0f / again.sum(sum);
  for (int64_t i = team.first(); i < d; i += team.kStep) {
    y[n * d + i] = gpu::from_float<T>(expf(gpu::to_float(row[i]) - top) * inverse);
  }
}

template <bool kWarpRow, class T>
__global__ void __launch_bounds__(kThreads)
    softmax_backward_kernel(int64_t rows, int64_t d, const T* dy, const T* y, T* dx) {
  __shared__ float shared[gpu::kWarp];
  const Team<kWarpRow> team{shared};
  const int64_t n = team.row();
  if (n >= rows) return;
  float dot = 0;
  for (int64_t i = team.first(); i < d; i += team.kStep) {
    dot += gpu::to_float(dy[n * d + i]) * gpu::to_float(y[n * d + i]);
  }
  dot = team.sum(dot);
  for (int64_t i = team.first(); i < d; i += team.kStep) {
    const float g = gpu::to_float(dy[n * d + i]), p = gpu::to_float(y[n * d + i]);
    dx[n * d + i] = gpu::from_float<T>(p * (g - dot));
  }
}

void check_same(const char* name, const Tensor& x, const Tensor& y) {
  PM_CHECK(x.shape() == y.shape() && x.dtype() == y.dtype(), name, ": ", to_string(x.shape()), " ",
           to_string(x.dtype()), " and ", to_string(y.shape()), " ", to_string(y.dtype()),
           ", expected one shape and dtype");
}

}  // namespace

void softmax_forward(const Tensor& x, Tensor& y) {
  check_same("softmax_forward", x, y);
  if (x.numel() == 0) return;
  const int64_t d = x.dim(-1), rows = x.numel() / d;
  gpu::visit_floating(x.dtype(), "softmax_forward", [&]<class T>() {
    if (d <= kWarpColumns) {
      softmax_forward_kernel<true><<<gpu::grid(rows, kThreads / 32), kThreads, 0, gpu::stream()>>>(
          rows, d, gpu::data<const T>(x), gpu::data<T>(y));
    } else {
      softmax_forward_kernel<false><<<gpu::grid(rows, 1), kThreads, 0, gpu::stream()>>>(
          rows, d, gpu::data<const T>(x), gpu::data<T>(y));
    }
    PM_LAUNCHED();
  });
}

void softmax_backward(const Tensor& dy, const Tensor& y, Tensor& dx) {
  check_same("softmax_backward", dy, y);
  check_same("softmax_backward", dy, dx);
  if (y.numel() == 0) return;
  const int64_t d = y.dim(-1), rows = y.numel() / d;
  gpu::visit_floating(y.dtype(), "softmax_backward", [&]<class T>() {
    if (d <= kWarpColumns) {
      softmax_backward_kernel<true><<<gpu::grid(rows, kThreads / 32), kThreads, 0, gpu::stream()>>>(
          rows, d, gpu::data<const T>(dy), gpu::data<const T>(y), gpu::data<T>(dx));
    } else {
      softmax_backward_kernel<false><<<gpu::grid(rows, 1), kThreads, 0, gpu::stream()>>>(
          rows, d, gpu::data<const T>(dy), gpu::data<const T>(y), gpu::data<T>(dx));
    }
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
