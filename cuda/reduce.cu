// Sums, as fixed two-stage trees. A flat sum runs in f64: its first stage gives one number a block,
// its second adds those in one block. How many blocks there are follows from the length alone.
#include "core/kernels/reduce.h"

#include "cuda/column_sums.cuh"
#include "cuda/reduce.cuh"

namespace pyramoe::kernels::cuda {
namespace {

constexpr int kThreads = 256, kUnroll = 4;
constexpr int64_t kMostBlocks = 1024;

struct Plain {
  __device__ double operator()(float x) const { return x; }
};
struct Square {
  __device__ double operator()(float x) const {
    const double wide = x;
    return wide * wide;
  }
};

__device__ __forceinline__ void write_scalar(double value, bool wide, void* y) {
  if (wide) {
    *static_cast<double*>(y) = value;
  } else {
    *static_cast<float*>(y) = static_cast<float>(value);
  }
}

// part[block] = the block's share of sum f(x[i]); a single block writes y instead.
template <int N, class F, class T>
__global__ void __launch_bounds__(kThreads)
    sum_kernel(int64_t n, const T* x, F f, double* part, bool wide, void* y) {
  __shared__ double shared[gpu::kWarp];
  const int64_t packs = n / N, stride = int64_t{gridDim.x} * kThreads * kUnroll;
  double sum[kUnroll] = {};
  for (int64_t base = int64_t{blockIdx.x} * kThreads * kUnroll; base < packs; base += stride) {
    gpu::Pieces<T, N> in[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t pack = base + u * kThreads + threadIdx.x;
      if (pack < packs) in[u].load(x + pack * N);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (base + u * kThreads + threadIdx.x < packs) {
#pragma unroll
        for (int i = 0; i < N; ++i) sum[u] += f(in[u][i]);
      }
    }
  }
  const int64_t rest = packs * N + threadIdx.x;
  if (blockIdx.x == 0 && rest < n) sum[0] += f(gpu::to_float(x[rest]));
  const double total = gpu::block_sum((sum[0] + sum[1]) + (sum[2] + sum[3]), shared);
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1) {
    write_scalar(total, wide, y);
  } else {
    part[blockIdx.x] = total;
  }
}

__global__ void __launch_bounds__(kMostBlocks)
    sum_parts_kernel(int count, const double* part, bool wide, void* y) {
  __shared__ double shared[gpu::kWarp];
  const double mine = static_cast<int>(threadIdx.x) < count ? part[threadIdx.x] : 0;
  const double total = gpu::block_sum(mine, shared);
  if (threadIdx.x == 0) write_scalar(total, wide, y);
}

template <class F>
void flat_sum(const char* name, const Tensor& x, const F& f, Tensor& y) {
  PM_CHECK(y.numel() == 1, name, ": the result has shape ", to_string(y.shape()),
           ", expected one element");
  PM_CHECK(y.dtype() == DType::f64 || y.dtype() == DType::f32, name, ": the result is ",
           to_string(y.dtype()), ", expected f32 or f64");
  const bool wide = y.dtype() == DType::f64;
  gpu::visit_floating(x.dtype(), name, [&]<class T>() {
    constexpr int kPack = 16 / sizeof(T);
    const int64_t n = x.numel();
    const T* in = gpu::data<const T>(x);
    const unsigned blocks = gpu::grid(n, int64_t{kThreads} * kUnroll * kPack, kMostBlocks);
    const gpu::Scratch part(static_cast<int64_t>(sizeof(double)) * blocks);
    if (gpu::aligned16(in)) {
      sum_kernel<kPack>
          <<<blocks, kThreads, 0, gpu::stream()>>>(n, in, f, part.data<double>(), wide, y.raw());
    } else {
      sum_kernel<1>
          <<<blocks, kThreads, 0, gpu::stream()>>>(n, in, f, part.data<double>(), wide, y.raw());
    }
    PM_LAUNCHED();
    if (blocks > 1) {
      sum_parts_kernel<<<1, kMostBlocks, 0, gpu::stream()>>>(static_cast<int>(blocks),
                                                             part.data<double>(), wide, y.raw());
      PM_LAUNCHED();
    }
  });
}

// Stage one of sum_rows: a block adds `rows_a_part` rows of 32 * N columns; its 8 warps take every
// eighth row and are then added in order.
template <int N, class T>
__global__ void __launch_bounds__(256)
    sum_rows_kernel(const T* x, int64_t rows, int64_t d, int64_t rows_a_part, float* parts) {
  __shared__ float sums[8][32 * N];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = (int64_t{blockIdx.x} * 32 + lane) * N;
  const int64_t begin = int64_t{blockIdx.y} * rows_a_part;
  const int64_t end = begin + rows_a_part < rows ? begin + rows_a_part : rows;
  float sum[N] = {};
  if (column < d) gpu::sum_strip(x + column, begin + warp, end, d, sum);
#pragma unroll
  for (int i = 0; i < N; ++i) sums[warp][i * 32 + lane] = sum[i];
  __syncthreads();
  for (int k = threadIdx.x; k < 32 * N; k += 256) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < 8; ++w) total += sums[w][(k % N) * 32 + k / N];
    const int64_t j = int64_t{blockIdx.x} * 32 * N + k;
    if (j < d) parts[int64_t{blockIdx.y} * d + j] = total;
  }
}

// A weighted sum of up to this many terms is one launch.
constexpr int kTerms = 128;
struct Terms {
  const void* data[kTerms];
  uint8_t type[kTerms];
  int count;
};

__global__ void weighted_sum_kernel(Terms terms, const double* weight, const double* before,
                                    double* after, bool wide, void* y) {
  double sum = before ? *before : 0;
  for (int i = 0; i < terms.count; ++i) {
    double value = 0;
    switch (static_cast<DType>(terms.type[i])) {
      case DType::f64:
        value = *static_cast<const double*>(terms.data[i]);
        break;
      case DType::f32:
        value = *static_cast<const float*>(terms.data[i]);
        break;
      default:
        value = gpu::to_float(*static_cast<const gpu::Bf16*>(terms.data[i]));
    }
    sum += weight[i] * value;
  }
  if (after) {
    *after = sum;
  } else {
    write_scalar(sum, wide, y);
  }
}

}  // namespace

void sum_all(const Tensor& x, Tensor& y) { flat_sum("sum_all", x, Plain{}, y); }

void sum_squares(const Tensor& x, Tensor& y) { flat_sum("sum_squares", x, Square{}, y); }

void sum_rows(const Tensor& x, bool accumulate, Tensor& y) {
  const int64_t d = y.numel();
  PM_CHECK(x.rank() == 2 && x.dim(1) == d, "sum_rows: x is ", to_string(x.shape()), ", y has ", d,
           " columns");
  if (d == 0) return;
  const int64_t rows = x.dim(0);
  const int64_t rows_a_part = std::max<int64_t>(64, gpu::ceil_div(rows, 128));
  const auto count = static_cast<int>(gpu::ceil_div(rows, rows_a_part));
  const gpu::Scratch parts(static_cast<int64_t>(sizeof(float)) * std::max(count, 1) * d);
  if (count > 0) {
    gpu::visit_floating(x.dtype(), "sum_rows", [&]<class T>() {
      const T* in = gpu::data<const T>(x);
      constexpr int kPack = 16 / sizeof(T);
      if (gpu::rows_aligned(in, d)) {
        const dim3 blocks(gpu::grid(d, 32 * kPack), static_cast<unsigned>(count));
        sum_rows_kernel<kPack>
            <<<blocks, 256, 0, gpu::stream()>>>(in, rows, d, rows_a_part, parts.data<float>());
      } else {
        const dim3 blocks(gpu::grid(d, 32), static_cast<unsigned>(count));
        sum_rows_kernel<1>
            <<<blocks, 256, 0, gpu::stream()>>>(in, rows, d, rows_a_part, parts.data<float>());
      }
      PM_LAUNCHED();
    });
  }
  gpu::combine_columns(parts.data<float>(), count, d, accumulate, "sum_rows", y);
}

void weighted_sum(std::span<const Tensor> terms, const Tensor& weight, Tensor& y) {
  const auto n = static_cast<int64_t>(terms.size());
  PM_CHECK(weight.numel() == n && weight.dtype() == DType::f64, "weighted_sum: ", n, " terms, ",
           weight.numel(), " weights of ", to_string(weight.dtype()), ", expected f64");
  PM_CHECK(y.numel() == 1 && (y.dtype() == DType::f32 || y.dtype() == DType::f64),
           "weighted_sum: the result is ", to_string(y.shape()), " ", to_string(y.dtype()),
           ", expected one f32 or f64");
  const gpu::Scratch running(sizeof(double));
  const auto* w = gpu::data<const double>(weight);
  for (int64_t begin = 0; begin == 0 || begin < n; begin += kTerms) {
    Terms part{};
    part.count = static_cast<int>(std::min<int64_t>(kTerms, n - begin));
    for (int i = 0; i < part.count; ++i) {
      const Tensor& term = terms[static_cast<size_t>(begin + i)];
      PM_CHECK(term.numel() == 1 && is_floating(term.dtype()), "weighted_sum: term ", begin + i,
               " is ", to_string(term.shape()), " ", to_string(term.dtype()),
               ", expected one floating element");
      part.data[i] = term.raw();
      part.type[i] = static_cast<uint8_t>(term.dtype());
    }
    const bool last = begin + kTerms >= n;
    weighted_sum_kernel<<<1, 1, 0, gpu::stream()>>>(
        part, w + begin, begin > 0 ? running.data<double>() : nullptr,
        last ? nullptr : running.data<double>(), y.dtype() == DType::f64, y.raw());
    PM_LAUNCHED();
  }
}

}  // namespace pyramoe::kernels::cuda
