// The product of decoding, y = x w^T for a few rows of x, from naive to fast in five steps; each is
// checked, then timed.
//
//   1 naive     a thread a column of y: neighbouring threads read memory K values apart
//   2 warp      a warp a column, neighbouring lanes read neighbouring values, two bytes each
//   3 wide      16 bytes a lane
//   4 ahead     eight loads of a lane on their way before the first is used (the library's kernel,
//               one row at a time: every row of x reads the weight again)
//   5 product   the same for up to four rows: the weight is read once
//
// As in decoding, every product has a weight of its own, so that it comes from memory: a run goes
// through 48 of them in one recorded graph. Check: every step against the CPU twin. Limit: the
// bytes of the weights at the rate of a large copy in the same run.
// Run: workshop_decode [K = 1024] [M = 4096] [rows = 1]
#include "core/kernels/matmul.h"
#include "cuda/matvec.h"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"
#include "cuda/workshop/bench.cuh"

namespace pyramoe::workshop {
namespace {

using gpu::Bf16;
using gpu::stream;
using gpu::to_float;

constexpr int kWeights = 48, kThreads = 128;

struct Sizes {
  int64_t k, m, rows;
};

// ---- step 1: naive. A warp's 32 loads touch 32 lines of memory and use two bytes of each.

__global__ void naive_kernel(const Bf16* x, const Bf16* w, Sizes s, Bf16* y) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= s.rows * s.m) return;
  const int64_t row = i / s.m, column = i % s.m;
  float sum = 0;
  for (int64_t k = 0; k < s.k; ++k) {
    sum = fmaf(to_float(x[row * s.k + k]), to_float(w[column * s.k + k]), sum);
  }
  y[i] = gpu::from_float<Bf16>(sum);
}

// ---- steps 2 and 3: a warp a column, N values a lane. One load on its way at a time.

template <int N>
__global__ void warp_kernel(const Bf16* x, const Bf16* w, Sizes s, Bf16* y) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (i >= s.rows * s.m) return;
  const int64_t row = i / s.m, column = i % s.m;
  float sum = 0;
#pragma unroll 1
  for (int64_t k = threadIdx.x % 32 * N; k < s.k; k += 32 * N) {
    const auto a = gpu::load_vec<Bf16, N>(x + row * s.k + k);
    const auto b = gpu::load_vec<Bf16, N>(w + column * s.k + k);
#pragma unroll
    for (int j = 0; j < N; ++j) sum = fmaf(to_float(a.v[j]), to_float(b.v[j]), sum);
  }
  sum = gpu::warp_sum(sum);
  if (threadIdx.x % 32 == 0) y[i] = gpu::from_float<Bf16>(sum);
}

// ---- measuring

// Records `run` once and replays it: no launch waits for the host.
double replayed_ms(const std::function<void()>& run) {
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  PM_CUDA(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  run();
  PM_CUDA(cudaStreamEndCapture(stream(), &graph));
  PM_CUDA(cudaGraphInstantiate(&ready, graph, 0));
  const double ms = median_ms([&] { PM_CUDA(cudaGraphLaunch(ready, stream())); }, 1);
  PM_CUDA(cudaGraphExecDestroy(ready));
  PM_CUDA(cudaGraphDestroy(graph));
  return ms;
}

struct Bench {
  Sizes s;
  Tensor x, w, y;  // (rows, K), (weights, M, K), (rows, M)

  const Bf16* weight(int i) const { return gpu::data<Bf16>(w) + i * s.m * s.k; }
  template <class Kernel>
  void launch(Kernel kernel, int64_t threads, int i) const {
    kernel<<<gpu::grid(threads, kThreads), kThreads, 0, stream()>>>(gpu::data<Bf16>(x), weight(i),
                                                                    s, gpu::data<Bf16>(y));
    PM_LAUNCHED();
  }
  // `rows` rows of x from `row` on.
  void few_rows(int64_t row, int64_t rows, int i) const {
    const bool done = gpu::few_rows({.rows = rows,
                                     .m = s.m,
                                     .k = s.k,
                                     .x = gpu::data<Bf16>(x) + row * s.k,
                                     .w = weight(i),
                                     .y = gpu::data<Bf16>(y) + row * s.m,
                                     .type = DType::bf16});
    PM_CHECK(done, "the library's kernel takes one to four rows, K a multiple of 8");
  }
};

struct Product {
  const char* name;
  std::function<void(int)> run;  // with weight i
};

std::vector<Product> steps_of(const Bench& b) {
  const int64_t results = b.s.rows * b.s.m;
  return {{"naive", [&b, results](int i) { b.launch(naive_kernel, results, i); }},
          {"warp", [&b, results](int i) { b.launch(warp_kernel<1>, results * 32, i); }},
          {"wide", [&b, results](int i) { b.launch(warp_kernel<8>, results * 32, i); }},
          {"ahead",
           [&b](int i) {
             for (int64_t row = 0; row < b.s.rows; ++row) b.few_rows(row, 1, i);
           }},
          {"product", [&b](int i) { b.few_rows(0, b.s.rows, i); }}};
}

int run(Sizes s) {
  if (!cuda_available()) return std::puts("no CUDA device here: nothing to measure"), 0;
  if (s.k % 8 != 0 || s.rows < 1 || s.rows > 4) return std::puts("K % 8 = 0, rows 1 to 4"), 1;
  const Tensor a({int64_t{1} << 29}, DType::u8, kGpu), copy = empty_like(a);
  a.zero();
  const double copy_rate = 2.0 * static_cast<double>(a.bytes()) / replayed_ms([&] {
                             PM_CUDA(cudaMemcpyAsync(copy.raw(), a.raw(), size_t{1} << 29,
                                                     cudaMemcpyDeviceToDevice, stream()));
                           });
  const Tensor x = normal({s.rows, s.k}, 1), w = normal({s.m, s.k}, 2, 0.02);
  Tensor want({s.rows, s.m}, DType::bf16);
  kernels::linear_forward(x, w, Tensor(), want);
  Bench b{s, x.to(kGpu), Tensor({kWeights, s.m, s.k}, DType::bf16, kGpu),
          Tensor(want.shape(), DType::bf16, kGpu)};
  const Tensor there = w.to(kGpu).reshape({1, s.m, s.k});
  for (int i = 0; i < kWeights; ++i) b.w.rows(i, i + 1).copy_from(there);
  const double bytes = 2.0 * kWeights * static_cast<double>(s.m * s.k), limit = bytes / copy_rate;
  std::printf("%ld rows, K = %ld, M = %ld, copy %.2f TB/s; limit: %.2f us a product\n",
              static_cast<long>(s.rows), static_cast<long>(s.k), static_cast<long>(s.m),
              copy_rate * 1e-9, limit / kWeights * 1e3);
  int wrong = 0;
  for (const Product& step : steps_of(b)) {
    b.y.zero();
    step.run(kWeights - 1);
    // bf16: one rounding, and f32 sums of k terms near 0.02.
    const double absolute = 0x1p-26 * static_cast<double>(s.k);
    const double error = error_in_bounds(want, b.y.to(kCpu), 0x1p-7, absolute);
    wrong += !(error <= 1);
    const double ms = replayed_ms([&] {
      for (int i = 0; i < kWeights; ++i) step.run(i);
    });
    std::printf("%-8s %8.2f us %6.2f TB/s %5.1f %% of the limit   %s (%.2f of the bound)\n",
                step.name, ms / kWeights * 1e3, bytes / ms * 1e-9, 100 * limit / ms, verdict(error),
                error);
  }
  return wrong;
}

}  // namespace
}  // namespace pyramoe::workshop

int main(int argc, char** argv) {
  using namespace pyramoe::workshop;
  const Sizes sizes{argument(argc, argv, 1, 1024), argument(argc, argv, 2, 4096),
                    argument(argc, argv, 3, 1)};
  return run(sizes) == 0 ? 0 : 1;
}
