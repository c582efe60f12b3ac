// CUDA twins of scores, choices and their weights.
//
// A warp owns a row of scores. For the k best it searches k times for the best expert that comes
// after the last one found ("larger score, then lower id" is a strict order), so nothing is struck
// out and any k and any number of experts work; up to 512 experts a row stays in registers.
#include <limits>

#include "core/kernels/moe.h"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::from_float;
using gpu::kWarp;
using gpu::to_float;
using gpu::visit_floating;

constexpr int kThreads = 256;

__device__ __forceinline__ int64_t warp_row() {
  return blockIdx.x * static_cast<int64_t>(kThreads / kWarp) + threadIdx.x / kWarp;
}
__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % kWarp); }
__device__ __forceinline__ int64_t thread_item() {
  return blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
}
unsigned row_grid(int64_t rows) { return gpu::grid(rows, kThreads / kWarp); }
unsigned item_grid(int64_t items) { return gpu::grid(items, kThreads); }

constexpr float kEps = std::numeric_limits<float>::epsilon();
constexpr float kInf = std::numeric_limits<float>::infinity();

// max(sum, eps), but NaN stays NaN.
__device__ __forceinline__ float at_least_eps(float sum) { return sum <= kEps ? kEps : sum; }

// ---- scores

template <class T>
__global__ void __launch_bounds__(kThreads)
    sigmoid_rows_kernel(const T* __restrict__ x, int64_t rows, int64_t d, T* __restrict__ y) {
  const int64_t n = warp_row();
  if (n >= rows) return;
  bool nan = false;
  for (int64_t e = lane(); e < d; e += kWarp) {
    const float v = to_float(x[n * d + e]);
    nan |= v != v;
  }
  nan = __any_sync(0xffffffffu, nan);
  for (int64_t e = lane(); e < d; e += kWarp) {
    const float v = to_float(x[n * d + e]);
    y[n * d + e] =
        from_float<T>(nan ? std::numeric_limits<float>::quiet_NaN() : 1.0f / (1.0f + expf(-v)));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    sigmoid_backward_kernel(const T* __restrict__ dy, const T* __restrict__ y, int64_t count,
                            T* __restrict__ dx) {
  const int64_t i = thread_item();
  if (i >= count) return;
  const float v = to_float(y[i]);
  dx[i] = from_float<T>(to_float(dy[i]) * v * (1.0f - v));
}

template <class T>
__device__ float row_sum(const T* x, int64_t d) {
  float sum = 0;
  for (int64_t e = lane(); e < d; e += kWarp) sum += to_float(x[e]);
  return gpu::warp_sum(sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    normalize_kernel(const T* __restrict__ x, int64_t rows, int64_t d, T* __restrict__ y) {
  const int64_t n = warp_row();
  if (n >= rows) return;
  const float divisor = at_least_eps(row_sum(x + n * d, d));
  for (int64_t e = lane(); e < d; e += kWarp) {
    y[n * d + e] = from_float<T>(to_float(x[n * d + e]) / divisor);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    normalize_backward_kernel(const T* __restrict__ dy, const T* __restrict__ x,
                              const T* __restrict__ y, int64_t rows, int64_t d,
                              T* __restrict__ dx) {
  const int64_t n = warp_row();
  if (n >= rows) return;
  const float sum = row_sum(x + n * d, d), divisor = at_least_eps(sum);
  float pull = 0;
  // Where the sum was clamped it is a constant and pulls on nobody.
  if (divisor == sum || sum != sum) {
    for (int64_t e = lane(); e < d; e += kWarp) {
      pull += to_float(dy[n * d + e]) * to_float(y[n * d + e]);
    }
    pull = gpu::warp_sum(pull);
  }
  for (int64_t e = lane(); e < d; e += kWarp) {
    dx[n * d + e] = from_float<T>((to_float(dy[n * d + e]) - pull) / divisor);
  }
}

// ---- choices

struct Scored {
  float score;
  int id;
};
// True when a is chosen before b.
__device__ __forceinline__ bool before(Scored a, Scored b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}
__device__ __forceinline__ Scored warp_first(Scored mine) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Scored other{__shfl_xor_sync(0xffffffffu, mine.score, step),
                       __shfl_xor_sync(0xffffffffu, mine.id, step)};
    if (before(other, mine)) mine = other;
  }
  return mine;
}

template <class T>
__device__ __forceinline__ float steered(const T* score, const T* bias, int64_t e) {
  return to_float(score[e]) + (bias ? to_float(bias[e]) : 0.0f);
}

// Up to 32 * kPer experts: lane l holds experts l, l + 32, … in registers. kPer = 0: any number,
// read again for every choice.
template <class T, int kPer>
__global__ void __launch_bounds__(kThreads)
    top_k_kernel(const T* __restrict__ score, const T* __restrict__ bias, int64_t rows, int experts,
                 int k, int32_t* __restrict__ expert) {
  const int64_t n = warp_row();
  if (n >= rows) return;
  const T* row = score + n * experts;
  float mine[kPer > 0 ? kPer : 1];
  bool nan = false;
  if constexpr (kPer > 0) {
#pragma unroll
    for (int u = 0; u < kPer; ++u) {
      const int e = u * kWarp + lane();
      mine[u] = e < experts ? steered(row, bias, e) : -kInf;  // ids past the end lose every tie
      nan |= mine[u] != mine[u];
    }
  } else {
    for (int e = lane(); e < experts; e += kWarp) {
      const float v = steered(row, bias, e);
      nan |= v != v;
    }
  }
  if (__any_sync(0xffffffffu, nan)) {
    for (int j = lane(); j < k; j += kWarp) expert[n * k + j] = j;
    return;
  }
  Scored last{kInf, -1};
  for (int j = 0; j < k; ++j) {
    Scored best{-kInf, std::numeric_limits<int>::max()};
    const auto offer = [&](float v, int e) {
      const Scored candidate{v, e};
      if (before(last, candidate) && before(candidate, best)) best = candidate;
    };
    if constexpr (kPer > 0) {
#pragma unroll
      for (int u = 0; u < kPer; ++u) offer(mine[u], u * kWarp + lane());
    } else {
      for (int e = lane(); e < experts; e += kWarp) offer(steered(row, bias, e), e);
    }
    last = warp_first(best);
    if (lane() == 0) expert[n * k + j] = last.id;
  }
}

__global__ void __launch_bounds__(kThreads)
    round_robin_kernel(int64_t first, int64_t experts, int64_t count, int32_t* expert) {
  const int64_t i = thread_item();
  if (i < count) expert[i] = static_cast<int32_t>((first + i) % experts);
}

// ---- the weights of the chosen

template <class T>
__global__ void __launch_bounds__(kThreads)
    take_kernel(const T* __restrict__ score, const int32_t* __restrict__ expert, int64_t experts,
                int64_t k, int64_t count, T* __restrict__ weight) {
  const int64_t i = thread_item();
  if (i < count) weight[i] = score[i / k * experts + expert[i]];
}

// A thread per score: it looks for its expert among the token's choices, so nobody adds where
// another adds.
template <class T>
__global__ void __launch_bounds__(kThreads)
    take_backward_kernel(const T* __restrict__ dweight, const int32_t* __restrict__ expert,
                         int64_t experts, int64_t k, int64_t count, T* __restrict__ dscore) {
  const int64_t i = thread_item();
  if (i >= count) return;
  const int64_t n = i / experts, e = i - n * experts;
  T sum = from_float<T>(0.0f);
  for (int64_t j = n * k; j < (n + 1) * k; ++j) {
    if (expert[j] == e) sum = from_float<T>(to_float(sum) + to_float(dweight[j]));
  }
  dscore[i] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    keep_weights_kernel(const T* __restrict__ weight, const int32_t* __restrict__ row,
                        int64_t tokens, int64_t k, bool renormalize, T* __restrict__ kept) {
  const int64_t n = thread_item();
  if (n >= tokens) return;
  float divisor = 1;
  if (renormalize) {
    float sum = 0;
    for (int64_t j = n * k; j < (n + 1) * k; ++j) sum += row[j] < 0 ? 0.0f : to_float(weight[j]);
    divisor = at_least_eps(sum);
  }
  for (int64_t j = n * k; j < (n + 1) * k; ++j) {
    kept[j] = from_float<T>(row[j] < 0 ? 0.0f : to_float(weight[j]) / divisor);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    keep_weights_backward_kernel(const T* __restrict__ dkept, const T* __restrict__ weight,
                                 const int32_t* __restrict__ row, int64_t tokens, int64_t k,
                                 bool renormalize, T* __restrict__ dweight) {
  const int64_t n = thread_item();
  if (n >= tokens) return;
  float divisor = 1, pull = 0;
  if (renormalize) {
    float sum = 0, dot = 0;
    for (int64_t j = n * k; j < (n + 1) * k; ++j) {
      if (row[j] < 0) continue;
      sum += to_float(weight[j]);
      dot += to_float(dkept[j]) * to_float(weight[j]);
    }
    divisor = at_least_eps(sum);
    pull = sum <= kEps ? 0.0f : dot / divisor;
  }
  for (int64_t j = n * k; j < (n + 1) * k; ++j) {
    dweight[j] = from_float<T>(row[j] < 0 ? 0.0f : (to_float(dkept[j]) - pull) / divisor);
  }
}

// One block: the total of all loads, then each expert's step. Whole numbers: an expert at the mean
// stays where it is, exactly.
template <class T>
__global__ void __launch_bounds__(kThreads)
    balance_bias_kernel(const int64_t* __restrict__ load, int64_t experts, double rate, T* bias) {
  __shared__ long long shared[kWarp];
  long long total = 0;
  for (int64_t e = threadIdx.x; e < experts; e += kThreads) total += load[e];
  total = gpu::block_sum(total, shared);
  for (int64_t e = threadIdx.x; e < experts; e += kThreads) {
    const int64_t short_by = total - load[e] * experts;
    const double step = short_by > 0 ? rate : short_by < 0 ? -rate : 0.0;
    bias[e] = from_float<T>(to_float(bias[e]) + static_cast<float>(step));
  }
}

}  // namespace

void sigmoid_rows_forward(const Tensor& x, Tensor& y) {
  if (x.numel() == 0) return;
  visit_floating(x.dtype(), "sigmoid_rows_forward", [&]<class T>() {
    sigmoid_rows_kernel<T><<<row_grid(x.dim(0)), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(x), x.dim(0), x.dim(-1), gpu::data<T>(y));
    PM_LAUNCHED();
  });
}

void sigmoid_rows_backward(const Tensor& dy, const Tensor& y, Tensor& dx) {
  if (y.numel() == 0) return;
  visit_floating(y.dtype(), "sigmoid_rows_backward", [&]<class T>() {
    sigmoid_backward_kernel<T><<<item_grid(y.numel()), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(dy), gpu::data<T>(y), y.numel(), gpu::data<T>(dx));
    PM_LAUNCHED();
  });
}

void normalize_rows_forward(const Tensor& x, Tensor& y) {
  if (x.numel() == 0) return;
  visit_floating(x.dtype(), "normalize_rows_forward", [&]<class T>() {
    normalize_kernel<T><<<row_grid(x.dim(0)), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(x), x.dim(0), x.dim(-1), gpu::data<T>(y));
    PM_LAUNCHED();
  });
}

void normalize_rows_backward(const Tensor& dy, const Tensor& x, const Tensor& y, Tensor& dx) {
  if (x.numel() == 0) return;
  visit_floating(x.dtype(), "normalize_rows_backward", [&]<class T>() {
    normalize_backward_kernel<T><<<row_grid(x.dim(0)), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(dy), gpu::data<T>(x), gpu::data<T>(y), x.dim(0), x.dim(-1), gpu::data<T>(dx));
    PM_LAUNCHED();
  });
}

void top_k(const Tensor& score, const Tensor& bias, Tensor& expert) {
  const int64_t rows = score.dim(0), experts = score.dim(1), k = expert.dim(1);
  PM_CHECK(k >= 1 && k <= experts, "top_k: ", k, " choices among ", experts, " experts");
  PM_CHECK(!bias.defined() || bias.dtype() == score.dtype(), "top_k: the bias is ",
           to_string(bias.dtype()), ", the scores are ", to_string(score.dtype()));
  if (rows == 0) return;
  visit_floating(score.dtype(), "top_k", [&]<class T>() {
    const auto launch = [&](auto* kernel) {
      kernel<<<row_grid(rows), kThreads, 0, gpu::stream()>>>(
          gpu::data<T>(score), gpu::data<T>(bias), rows, static_cast<int>(experts),
          static_cast<int>(k), gpu::data<int32_t>(expert));
    };
    if (experts <= kWarp) {
      launch(&top_k_kernel<T, 1>);
    } else if (experts <= 4 * kWarp) {
      launch(&top_k_kernel<T, 4>);
    } else if (experts <= 16 * kWarp) {
      launch(&top_k_kernel<T, 16>);
    } else {
      launch(&top_k_kernel<T, 0>);
    }
    PM_LAUNCHED();
  });
}

void round_robin(int64_t first_row, int64_t experts, Tensor& expert) {
  if (expert.numel() == 0) return;
  round_robin_kernel<<<item_grid(expert.numel()), kThreads, 0, gpu::stream()>>>(
      first_row % experts * expert.dim(1), experts, expert.numel(), gpu::data<int32_t>(expert));
  PM_LAUNCHED();
}

void take_forward(const Tensor& score, const Tensor& expert, Tensor& weight) {
  if (expert.numel() == 0) return;
  visit_floating(score.dtype(), "take_forward", [&]<class T>() {
    take_kernel<T><<<item_grid(expert.numel()), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(score), gpu::data<int32_t>(expert), score.dim(1), expert.dim(1),
        expert.numel(), gpu::data<T>(weight));
    PM_LAUNCHED();
  });
}

void take_backward(const Tensor& dweight, const Tensor& expert, Tensor& dscore) {
  if (dscore.numel() == 0) return;
  visit_floating(dscore.dtype(), "take_backward", [&]<class T>() {
    take_backward_kernel<T><<<item_grid(dscore.numel()), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(dweight), gpu::data<int32_t>(expert), dscore.dim(1), expert.dim(1),
        dscore.numel(), gpu::data<T>(dscore));
    PM_LAUNCHED();
  });
}

void keep_weights_forward(const Tensor& weight, const Tensor& row, bool renormalize, Tensor& kept) {
  if (weight.numel() == 0) return;
  visit_floating(weight.dtype(), "keep_weights_forward", [&]<class T>() {
    keep_weights_kernel<T><<<item_grid(weight.dim(0)), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(weight), gpu::data<int32_t>(row), weight.dim(0), weight.dim(1), renormalize,
        gpu::data<T>(kept));
    PM_LAUNCHED();
  });
}

void keep_weights_backward(const Tensor& dkept, const Tensor& weight, const Tensor& row,
                           bool renormalize, Tensor& dweight) {
  if (weight.numel() == 0) return;
  visit_floating(weight.dtype(), "keep_weights_backward", [&]<class T>() {
    keep_weights_backward_kernel<T><<<item_grid(weight.dim(0)), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(dkept), gpu::data<T>(weight), gpu::data<int32_t>(row), weight.dim(0),
        weight.dim(1), renormalize, gpu::data<T>(dweight));
    PM_LAUNCHED();
  });
}

void balance_bias_step(const Tensor& load, double rate, Tensor& bias) {
  const int64_t experts = bias.dim(0);
  PM_CHECK(load.numel() == experts, "balance_bias_step: load of ", load.numel(),
           " experts, bias of ", experts);
  if (experts == 0) return;
  visit_floating(bias.dtype(), "balance_bias_step", [&]<class T>() {
    balance_bias_kernel<T><<<1, kThreads, 0, gpu::stream()>>>(gpu::data<int64_t>(load), experts,
                                                              rate, gpu::data<T>(bias));
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
