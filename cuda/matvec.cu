// y = x w^T for one to four rows of x. A warp makes one column of y: its lanes read a row of w in
// packs of 16 bytes, eight on their way at a time, and multiply them with the same packs of every
// row of x, which stay in the first-level cache. Nothing is split between warps, so a column costs
// one launch, and its sum has one order.
#include "cuda/matvec.h"

#include "cuda/grouped_finish.cuh"
#include "cuda/map.cuh"
#include "cuda/reduce.cuh"

namespace pyramoe::gpu {
namespace {

constexpr int kWarps = 4, kLoads = 8;

// This lane's share of one column, for R rows.
template <int R, class T>
__device__ __forceinline__ void multiply_packs(const T* x, const T* w, int64_t k, float (&sum)[R]) {
  constexpr int N = 16 / sizeof(T);
  constexpr int64_t kStep = kWarp * N;
  const auto lane = static_cast<int64_t>(threadIdx.x % kWarp) * N;
  for (int64_t base = lane; base < k; base += kStep * kLoads) {
    Pieces<T, N> in[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      if (base + u * kStep < k) in[u].load(w + base + u * kStep);
    }
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
      if (base + u * kStep >= k) break;
#pragma unroll
      for (int r = 0; r < R; ++r) {
        Pieces<T, N> row;
        row.load(x + r * k + base + u * kStep);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[r] = fmaf(in[u][i], row[i], sum[r]);
      }
    }
  }
}

template <int R, bool kGelu, class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    few_rows_kernel(const T* x, const T* w, const T* bias, int64_t m, int64_t k, T* pre, T* y) {
  const int64_t column = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (column >= m) return;
  float sum[R] = {};
  multiply_packs(x, w + column * k, k, sum);
#pragma unroll
  for (int r = 0; r < R; ++r) sum[r] = warp_sum(sum[r]);
  if (threadIdx.x % kWarp != 0) return;
  const float shift = bias ? to_float(bias[column]) : 0.0f;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const float value = sum[r] + shift;
    const int64_t at = r * m + column;
    if constexpr (kGelu) {
      const T rounded = from_float<T>(value);
      if (pre) pre[at] = rounded;
      y[at] = from_float<T>(Gelu<T>::value(to_float(rounded)));
    } else {
      y[at] = from_float<T>(value);
    }
  }
}

// A warp makes one column of one row: the expert is the number of segments that end before the row.
template <class T>
__global__ void __launch_bounds__(kWarps* kWarp) grouped_kernel(const grouped::Product p) {
  const int lane = threadIdx.x % kWarp, row = static_cast<int>(blockIdx.y);
  const int64_t column = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  int expert = 0;
  for (int64_t e = lane; e < p.experts; e += kWarp) expert += p.offsets[e + 1] <= row;
  expert = warp_sum(expert);
  if (column >= p.m || expert == p.experts || row < p.offsets[0]) return;
  const int64_t weight = expert * p.m + column, at = row * p.m + column;
  float sum[1] = {};
  multiply_packs(static_cast<const T*>(p.a) + row * p.k, static_cast<const T*>(p.b) + weight * p.k,
                 p.k, sum);
  sum[0] = warp_sum(sum[0]);
  if (lane != 0) return;
  if (p.bias) sum[0] += to_float(static_cast<const T*>(p.bias)[weight]);
  grouped::finish_one(p.finish, sum[0], static_cast<T*>(p.c) + at, static_cast<const T*>(nullptr),
                      static_cast<T*>(p.extra) + (p.extra ? at : 0));
}

template <int R, class T>
void launch(const FewRows& p) {
  const auto kernel = p.gelu ? few_rows_kernel<R, true, T> : few_rows_kernel<R, false, T>;
  kernel<<<grid(p.m, kWarps), kWarps * kWarp, 0, stream()>>>(
      static_cast<const T*>(p.x), static_cast<const T*>(p.w), static_cast<const T*>(p.bias), p.m,
      p.k, static_cast<T*>(p.pre), static_cast<T*>(p.y));
  PM_LAUNCHED();
}

}  // namespace

bool few_rows(const FewRows& p) {
  if (p.rows < 1 || p.rows > 4 || p.m == 0 || p.k == 0) return false;
  return visit_floating(p.type, "few_rows", [&]<class T>() {
    if (!rows_aligned(static_cast<const T*>(p.x), p.k) ||
        !rows_aligned(static_cast<const T*>(p.w), p.k)) {
      return false;
    }
    const auto run = p.rows == 1   ? launch<1, T>
                     : p.rows == 2 ? launch<2, T>
                     : p.rows == 3 ? launch<3, T>
                                   : launch<4, T>;
    run(p);
    return true;
  });
}

bool few_rows(const grouped::Product& p) {
  if (p.form != grouped::Form::forward || p.rows < 1 || p.rows > 8 || p.m == 0 || p.k == 0) {
    return false;
  }
  const auto run = [&]<class T>() {
    if (!rows_aligned(static_cast<const T*>(p.a), p.k) ||
        !rows_aligned(static_cast<const T*>(p.b), p.k)) {
      return false;
    }
    const dim3 blocks(grid(p.m, kWarps), static_cast<unsigned>(p.rows));
    grouped_kernel<T><<<blocks, kWarps * kWarp, 0, stream()>>>(p);
    PM_LAUNCHED();
    return true;
  };
  return p.bf16 ? run.template operator()<Bf16>() : run.template operator()<float>();
}

}  // namespace pyramoe::gpu
