// CUDA twins of the load-balancing loss and the router z-loss.
//
// Sums run over fixed blocks of one routing group, then over the blocks in order, in double: a
// block's sum is one warp's tokens after another's, and nothing depends on who finished first.
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
constexpr int kWarps = kThreads / kWarp;
constexpr int kTokenBlock = 64;  // tokens a block sums; a block never leaves its group
constexpr int kFinishThreads = 1024;

struct BalanceShape {
  int64_t experts, k, counted, group_rows, per_group, groups;
};

// Per (block, expert): the sum of probabilities and the number of choices counted. Grid x over
// token blocks, y over runs of 32 experts: a lane is an expert, a warp takes every eighth token.
template <class T>
__global__ void __launch_bounds__(kThreads)
    balance_parts_kernel(const T* __restrict__ p, const int32_t* __restrict__ expert,
                         BalanceShape s, double* __restrict__ sums, int32_t* __restrict__ counts) {
  __shared__ double part[kWarps][kWarp];
  __shared__ int32_t hits[kWarps][kWarp];
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  const int64_t b = blockIdx.x, first = blockIdx.y * static_cast<int64_t>(kWarp);
  const int64_t e = first + lane;
  const int64_t start = b / s.per_group * s.group_rows, stop = start + s.group_rows;
  const int64_t begin = start + b % s.per_group * kTokenBlock;
  const int64_t end = min(begin + kTokenBlock, stop);
  double sum = 0;
  int32_t hit = 0;
  for (int64_t n = begin + warp; n < end; n += kWarps) {
    if (e < s.experts) sum += static_cast<double>(to_float(p[n * s.experts + e]));
    for (int64_t j = 0; j < s.counted; ++j) hit += expert[n * s.k + j] == e;
  }
  part[warp][lane] = sum;
  hits[warp][lane] = hit;
  __syncthreads();
  if (warp != 0 || e >= s.experts) return;
  for (int w = 1; w < kWarps; ++w) {
    sum += part[w][lane];
    hit += hits[w][lane];
  }
  sums[b * s.experts + e] = sum;
  counts[b * s.experts + e] = hit;
}

// loss = the mean of lse^2, by one block of kFinishThreads.
template <class T>
__device__ void mean_square(const T* lse, int64_t rows, double* shared, T* loss) {
  double total = 0;
  for (int64_t n = threadIdx.x; n < rows; n += kFinishThreads) {
    const double v = static_cast<double>(to_float(lse[n]));
    total += v * v;
  }
  total = gpu::block_sum(total, shared);
  if (threadIdx.x == 0) {
    loss[0] = from_float<T>(static_cast<float>(total / static_cast<double>(rows)));
  }
}

// One block. A (group, expert) belongs to `ways` threads, each adds a run of token blocks in order,
// then the first of them adds the runs in order; last comes the sum over all. With lse also z = the
// mean of its squares.
template <class T>
__global__ void __launch_bounds__(kFinishThreads)
    balance_finish_kernel(const double* __restrict__ sums, const int32_t* __restrict__ counts,
                          BalanceShape s, T* __restrict__ loss, T* __restrict__ share,
                          const T* __restrict__ lse, int64_t rows, T* __restrict__ z) {
  __shared__ double shared[kWarp], run_sum[kFinishThreads];
  __shared__ int32_t run_choices[kFinishThreads];
  const double size = static_cast<double>(s.group_rows);
  const double made = static_cast<double>(s.group_rows * s.counted);
  const int64_t entries = s.groups * s.experts, t = threadIdx.x;
  const int64_t ways = max(kFinishThreads / entries, int64_t{1});
  const int64_t run = (s.per_group + ways - 1) / ways, way = ways > 1 ? t / entries : 0;
  double total = 0;
  for (int64_t base = 0; base < entries; base += kFinishThreads) {
    const int64_t i = base + t - way * entries;
    const int64_t g = i / s.experts, e = i - g * s.experts;
    const int64_t at = g * s.per_group * s.experts + e;
    double sum = 0;
    int32_t choices = 0;
    if (i < entries && way < ways) {
#pragma unroll 8
      for (int64_t b = way * run; b < min((way + 1) * run, s.per_group); ++b) {
        sum += sums[at + b * s.experts];
        choices += counts[at + b * s.experts];
      }
    }
    run_sum[t] = sum;
    run_choices[t] = choices;
    __syncthreads();
    if (way == 0 && i < entries) {
      for (int64_t w = 1; w < ways; ++w) {
        sum += run_sum[t + w * entries];
        choices += run_choices[t + w * entries];
      }
      const double part = static_cast<double>(choices) / made;
      share[i] = from_float<T>(static_cast<float>(part));
      total += sum / size * part;
    }
    __syncthreads();
  }
  total = gpu::block_sum(total, shared);
  if (threadIdx.x == 0) {
    total *= static_cast<double>(s.experts) / static_cast<double>(s.groups);
    loss[0] = from_float<T>(static_cast<float>(total));
  }
  if (z) mean_square(lse, rows, shared, z);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    balance_backward_kernel(const T* __restrict__ dloss, const T* __restrict__ share,
                            int64_t group_rows, int64_t rows, int64_t experts, T* __restrict__ dp) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i >= rows * experts) return;
  const int64_t n = i / experts, e = i - n * experts;
  const float factor = to_float(dloss[0]) * static_cast<float>(experts) / static_cast<float>(rows);
  dp[i] = from_float<T>(factor * to_float(share[n / group_rows * experts + e]));
}

// lse[n] = log(sum_e exp(logits[n, e])), a warp a row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    lse_kernel(const T* __restrict__ logits, int64_t rows, int64_t experts, T* __restrict__ lse) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / kWarp;
  if (n >= rows) return;
  const T* row = logits + n * experts;
  const int64_t lane = threadIdx.x % kWarp;
  float top = -INFINITY;
  for (int64_t e = lane; e < experts; e += kWarp) top = fmaxf(top, to_float(row[e]));
  top = gpu::warp_max(top);
  float sum = 0;
  for (int64_t e = lane; e < experts; e += kWarp) sum += expf(to_float(row[e]) - top);
  sum = gpu::warp_sum(sum);
  if (lane == 0) lse[n] = from_float<T>(top + logf(sum));
}

template <class T>
__global__ void __launch_bounds__(kFinishThreads)
    mean_square_kernel(const T* __restrict__ lse, int64_t rows, T* __restrict__ loss) {
  __shared__ double shared[kWarp];
  mean_square(lse, rows, shared, loss);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    z_backward_kernel(const T* __restrict__ dloss, const T* __restrict__ logits,
                      const T* __restrict__ lse, int64_t rows, int64_t experts,
                      T* __restrict__ dlogits) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i >= rows * experts) return;
  const float factor = 2 * to_float(dloss[0]) / static_cast<float>(rows);
  const float z = to_float(lse[i / experts]);
  dlogits[i] = from_float<T>(factor * z * expf(to_float(logits[i]) - z));
}

// The balance loss, and where z is defined the z-loss from lse.
void sum_losses(const Tensor& p, const Tensor& lse, const Tensor& expert, int64_t group_rows,
                bool all_choices, const Tensor& loss, const Tensor& share, const Tensor& z) {
  const int64_t rows = p.dim(0), experts = p.dim(1), k = expert.dim(1);
  PM_CHECK(group_rows >= 1 && rows > 0 && rows % group_rows == 0, "balance_loss: groups of ",
           group_rows, " rows do not divide ", rows, " rows");
  const BalanceShape s{
      experts,          k, all_choices ? k : 1, group_rows, gpu::ceil_div(group_rows, kTokenBlock),
      rows / group_rows};
  const int64_t parts = s.groups * s.per_group * experts;
  const gpu::Scratch sums(parts * 8), counts(parts * 4);
  const dim3 grid(gpu::grid(s.groups * s.per_group, 1), gpu::grid(experts, kWarp));
  visit_floating(p.dtype(), "balance_loss", [&]<class T>() {
    balance_parts_kernel<T>
        <<<grid, kThreads, 0, gpu::stream()>>>(gpu::data<T>(p), gpu::data<int32_t>(expert), s,
                                               sums.data<double>(), counts.data<int32_t>());
    PM_LAUNCHED();
    balance_finish_kernel<T><<<1, kFinishThreads, 0, gpu::stream()>>>(
        sums.data<double>(), counts.data<int32_t>(), s, gpu::data<T>(loss), gpu::data<T>(share),
        gpu::data<T>(lse), rows, gpu::data<T>(z));
    PM_LAUNCHED();
  });
}

}  // namespace

void balance_loss_forward(const Tensor& p, const Tensor& expert, int64_t group_rows,
                          bool all_choices, Tensor& loss, Tensor& share) {
  sum_losses(p, Tensor(), expert, group_rows, all_choices, loss, share, Tensor());
}

void router_losses(const Tensor& p, const Tensor& lse, const Tensor& expert, int64_t group_rows,
                   bool all_choices, Tensor& balance, Tensor& share, Tensor& z) {
  sum_losses(p, lse, expert, group_rows, all_choices, balance, share, z);
}

void balance_loss_backward(const Tensor& dloss, const Tensor& share, int64_t group_rows,
                           Tensor& dp) {
  if (dp.numel() == 0) return;
  visit_floating(dp.dtype(), "balance_loss_backward", [&]<class T>() {
    balance_backward_kernel<T><<<gpu::grid(dp.numel(), kThreads), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(dloss), gpu::data<T>(share), group_rows, dp.dim(0), dp.dim(1),
        gpu::data<T>(dp));
    PM_LAUNCHED();
  });
}

void z_loss_forward(const Tensor& logits, Tensor& loss, Tensor& lse) {
  const int64_t rows = logits.dim(0), experts = logits.dim(1);
  PM_CHECK(rows > 0, "z_loss: no tokens");
  visit_floating(logits.dtype(), "z_loss_forward", [&]<class T>() {
    lse_kernel<T><<<gpu::grid(rows, kWarps), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(logits), rows, experts, gpu::data<T>(lse));
    PM_LAUNCHED();
    mean_square_kernel<T>
        <<<1, kFinishThreads, 0, gpu::stream()>>>(gpu::data<T>(lse), rows, gpu::data<T>(loss));
    PM_LAUNCHED();
  });
}

void z_loss_backward(const Tensor& dloss, const Tensor& logits, const Tensor& lse,
                     Tensor& dlogits) {
  if (logits.numel() == 0) return;
  visit_floating(logits.dtype(), "z_loss_backward", [&]<class T>() {
    z_backward_kernel<T><<<gpu::grid(logits.numel(), kThreads), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(dloss), gpu::data<T>(logits), gpu::data<T>(lse), logits.dim(0), logits.dim(1),
        gpu::data<T>(dlogits));
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
