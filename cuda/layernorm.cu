// Layer norm forward, alone and fused with the residual add before it.
//
// A row of up to eight 16-byte packs a lane belongs to one warp and stays in its registers, so x is
// read once although mean and variance are two sums (the variance from the differences to the mean:
// E[x^2] - mean^2 would lose all digits of a row far from zero). A multiprocessor holds some fifty
// such warps, 100 KB on their way: enough to fill the memory bus without any pipelining by hand.
// Wider rows take a block each; widths that are no multiple of 16 bytes take a plain loop.
#include "core/kernels/layernorm.h"

#include "cuda/map.cuh"
#include "cuda/reduce.cuh"

namespace pyramoe::kernels::cuda {
namespace {

constexpr int kWarpThreads = 128;   // a block of four rows, a warp each
constexpr int kBlockThreads = 256;  // a block of one row

template <class T, class W>
struct Forward {
  int64_t rows;
  int d;
  float eps;
  const T *x, *residual;  // residual null: h is x and not written
  const W *weight, *bias;
  T *h, *y;
  float *mean, *rstd;
};

template <bool kBlockRow>
__device__ __forceinline__ float team_sum(float x, float* shared) {
  return kBlockRow ? gpu::block_sum(x, shared) : gpu::warp_sum(x);
}

// One row in kLaps packs a thread.
template <bool kBlockRow, int kLaps, bool kResidual, class T, class W>
__global__ void __launch_bounds__(kBlockRow ? kBlockThreads : kWarpThreads)
    forward_kernel(Forward<T, W> p) {
  constexpr int N = 16 / sizeof(T), kStep = kBlockRow ? kBlockThreads : 32;
  __shared__ float shared[2][gpu::kWarp];
  const int me = kBlockRow ? threadIdx.x : threadIdx.x % 32;
  const int64_t n =
      kBlockRow ? blockIdx.x : int64_t{blockIdx.x} * (kWarpThreads / 32) + threadIdx.x / 32;
  if (n >= p.rows) return;
  const int packs = p.d / N;
  const int64_t row = n * p.d;

  gpu::Pieces<T, N> in[kLaps], add[kResidual ? kLaps : 1];
#pragma unroll
  for (int lap = 0; lap < kLaps; ++lap) {
    const int pack = me + lap * kStep;
    if (pack >= packs) continue;
    in[lap].load(p.x + row + pack * N);
    if constexpr (kResidual) add[lap].load(p.residual + row + pack * N);
  }
  float sum = 0;
#pragma unroll
  for (int lap = 0; lap < kLaps; ++lap) {
    const int pack = me + lap * kStep;
    if (pack >= packs) continue;
    if constexpr (kResidual) {  // what is normalised is the sum as it is stored
      float h[N];
#pragma unroll
      for (int i = 0; i < N; ++i) h[i] = in[lap][i] + add[lap][i];
      in[lap].put(h);
      in[lap].store(p.h + row + pack * N);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sum += in[lap][i];
  }
  const float mean = team_sum<kBlockRow>(sum, shared[0]) / static_cast<float>(p.d);
  float squares = 0;
#pragma unroll
  for (int lap = 0; lap < kLaps; ++lap) {
    if (me + lap * kStep >= packs) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float c = in[lap][i] - mean;
      squares += c * c;
    }
  }
  squares = team_sum<kBlockRow>(squares, shared[1]);
  const float rstd = 1.0f / sqrtf(squares / static_cast<float>(p.d) + p.eps);
#pragma unroll
  for (int lap = 0; lap < kLaps; ++lap) {
    const int pack = me + lap * kStep;
    if (pack >= packs) continue;
    gpu::Pieces<W, N> weight, bias;
    weight.load(p.weight + pack * N);
    bias.load(p.bias + pack * N);
    float value[N];
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = (in[lap][i] - mean) * rstd * weight[i] + bias[i];
    gpu::Pieces<T, N> out;
    out.put(value);
    out.store(p.y + row + pack * N);
  }
  if (me == 0) {
    p.mean[n] = mean;
    p.rstd[n] = rstd;
  }
}

// Any width: a block reads its row three times, twice from the cache.
template <class T, class W>
__global__ void __launch_bounds__(kBlockThreads) forward_any_kernel(Forward<T, W> p) {
  __shared__ float shared[2][gpu::kWarp];
  const int64_t n = blockIdx.x, row = n * p.d;
  const T* h = p.residual ? p.h : p.x;
  float sum = 0;
  for (int i = threadIdx.x; i < p.d; i += kBlockThreads) {
    if (p.residual) {
      p.h[row + i] =
          gpu::from_float<T>(gpu::to_float(p.x[row + i]) + gpu::to_float(p.residual[row + i]));
    }
    sum += gpu::to_float(h[row + i]);
  }
  const float mean = gpu::block_sum(sum, shared[0]) / static_cast<float>(p.d);
  float squares = 0;
  for (int i = threadIdx.x; i < p.d; i += kBlockThreads) {
    const float c = gpu::to_float(h[row + i]) - mean;
    squares += c * c;
  }
  squares = gpu::block_sum(squares, shared[1]);
  const float rstd = 1.0f / sqrtf(squares / static_cast<float>(p.d) + p.eps);
  for (int i = threadIdx.x; i < p.d; i += kBlockThreads) {
    const float c = (gpu::to_float(h[row + i]) - mean) * rstd;
    p.y[row + i] = gpu::from_float<T>(c * gpu::to_float(p.weight[i]) + gpu::to_float(p.bias[i]));
  }
  if (threadIdx.x == 0) {
    p.mean[n] = mean;
    p.rstd[n] = rstd;
  }
}

template <bool kBlockRow, int kLaps, class T, class W>
void launch(const Forward<T, W>& p) {
  const unsigned blocks = gpu::grid(p.rows, kBlockRow ? 1 : kWarpThreads / 32);
  const unsigned threads = kBlockRow ? kBlockThreads : kWarpThreads;
  if (p.residual) {
    forward_kernel<kBlockRow, kLaps, true><<<blocks, threads, 0, gpu::stream()>>>(p);
  } else {
    forward_kernel<kBlockRow, kLaps, false><<<blocks, threads, 0, gpu::stream()>>>(p);
  }
}

template <class T, class W>
void launch_fitting(const Forward<T, W>& p) {
  constexpr int N = 16 / sizeof(T);
  const bool aligned = gpu::rows_aligned(p.x, p.d) && gpu::aligned16(p.y) &&
                       gpu::aligned16(p.residual) && gpu::aligned16(p.h) &&
                       gpu::aligned16(p.weight) && gpu::aligned16(p.bias);
  const int64_t laps = gpu::ceil_div(p.d, 32 * N), wide = gpu::ceil_div(p.d, kBlockThreads * N);
  if (!aligned || wide > 4) {
    forward_any_kernel<<<gpu::grid(p.rows, 1), kBlockThreads, 0, gpu::stream()>>>(p);
  } else if (laps <= 1) {
    launch<false, 1>(p);
  } else if (laps == 2) {
    launch<false, 2>(p);
  } else if (laps == 3) {
    launch<false, 3>(p);
  } else if (laps == 4) {
    launch<false, 4>(p);
  } else if (laps <= 8) {
    launch<false, 8>(p);
  } else if (wide <= 2) {
    launch<true, 2>(p);
  } else {
    launch<true, 4>(p);
  }
  PM_LAUNCHED();
}

void check(const char* name, const Tensor& x, const Tensor& weight, const Tensor& bias,
           const Tensor& y, const Tensor& mean, const Tensor& rstd) {
  const int64_t d = x.dim(-1);
  PM_CHECK(weight.numel() == d && bias.numel() == d, name, ": rows of ", d, ", weight has ",
           weight.numel(), ", bias ", bias.numel());
  PM_CHECK(weight.dtype() == bias.dtype(), name, ": weight is ", to_string(weight.dtype()),
           ", bias ", to_string(bias.dtype()), ", expected one dtype");
  PM_CHECK(y.dtype() == x.dtype() && y.numel() == x.numel(), name, ": y is ", to_string(y.shape()),
           " ", to_string(y.dtype()), " for x ", to_string(x.shape()), " ", to_string(x.dtype()));
  PM_CHECK(mean.dtype() == DType::f32 && rstd.dtype() == DType::f32, name,
           ": mean and rstd are f32 on a GPU");
}

void forward(const char* name, const Tensor& x, const Tensor& residual, const Tensor& weight,
             const Tensor& bias, double eps, const Tensor& h, const Tensor& y, const Tensor& mean,
             const Tensor& rstd) {
  if (x.numel() == 0) return;
  check(name, x, weight, bias, y, mean, rstd);
  const int64_t d = x.dim(-1);
  gpu::visit_floating(x.dtype(), name, [&]<class T>() {
    gpu::visit_floating(weight.dtype(), name, [&]<class W>() {
      launch_fitting(Forward<T, W>{
          x.numel() / d, static_cast<int>(d), static_cast<float>(eps), gpu::data<const T>(x),
          gpu::data<const T>(residual), gpu::data<const W>(weight), gpu::data<const W>(bias),
          gpu::data<T>(h), gpu::data<T>(y), gpu::data<float>(mean), gpu::data<float>(rstd)});
    });
  });
}

}  // namespace

void layernorm_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                       Tensor& y, Tensor& mean, Tensor& rstd) {
  forward("layernorm_forward", x, Tensor(), weight, bias, eps, Tensor(), y, mean, rstd);
}

void add_layernorm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight,
                           const Tensor& bias, double eps, Tensor& h, Tensor& y, Tensor& mean,
                           Tensor& rstd) {
  PM_CHECK(residual.shape() == x.shape() && h.shape() == x.shape() &&
               residual.dtype() == x.dtype() && h.dtype() == x.dtype(),
           "add_layernorm_forward: x is ", to_string(x.shape()), ", residual ",
           to_string(residual.shape()), ", h ", to_string(h.shape()),
           ", expected one shape and dtype");
  forward("add_layernorm_forward", x, residual, weight, bias, eps, h, y, mean, rstd);
}

}  // namespace pyramoe::kernels::cuda
